"""How the gradient of a step is computed by several workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from train.data.plan import Step, shards_of
from train.loop.objective import Objective
from train.loop.reduce import Group, Reducer, StepSum
from train.randomness import seeded


class TrainedParameters(Protocol):
    """What a worker trains, as vectors [P]: of a whole model, or of its pieces of one."""

    values: torch.Tensor
    gradient: torch.Tensor

    def __len__(self) -> int: ...

    def norm(self) -> float:
        """Of the gradient, over all workers' pieces."""
        ...

    def layout(self) -> str:
        """A digest of names and shapes."""
        ...

    def snapshot(self, optimizer: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Values and the optimizer's tensors, as a checkpoint names them."""
        ...

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Put values back; what the optimizer takes of a checkpoint."""
        ...


class Passes(Protocol):
    """The passes of a step, on one worker."""

    def compute(self, step: Step) -> StepSum:
        """Leave the gradient of the whole batch in the parameters' vector, unless there is a
        notice.

        Raises:
            PeerLostError: another worker is gone.
        """
        ...

    def updated(self) -> None:
        """Called after each step of the optimizer."""
        ...


class ShardPasses:
    """Each worker has the whole model, and computes its logical shards one after the other.

    Args:
        shards: Of a batch.
        flat: What is trained.
        objective: What is minimised.
        group: The workers.
        notice: Whether this worker's machine is about to end.
        seed: Of the run.
    """

    def __init__(
        self,
        shards: int,
        flat: TrainedParameters,
        objective: Objective,
        group: Group,
        notice: Callable[[], bool],
        seed: int,
    ) -> None:
        self._flat, self._objective, self._group = flat, objective, group
        self._shards, self._notice, self._seed = shards, notice, seed
        self._reducer = Reducer(group, shards, flat.gradient, 1 + len(objective.measures))

    def compute(self, step: Step) -> StepSum:
        return self._reducer.sum(notice=not self._computed(step))

    def updated(self) -> None:
        """The model's parameters are views of the vector."""

    def _computed(self, step: Step) -> bool:
        """The gradients of this worker's shards, unless a notice comes in between."""
        for shard in shards_of(self._group.rank, self._group.size, self._shards):
            sums = [0.0] * (1 + len(self._objective.measures))
            for number, batch in enumerate(step.shards[shard].micro_batches):
                if self._notice():
                    return False
                device = self._flat.values.device
                with seeded(self._seed, step.number, shard, number, device=device):
                    found = self._objective.backward(batch)
                    sums = [a + b for a, b in zip(sums, found, strict=True)]
            self._reducer.keep(shard, *sums)
        return not self._notice()
