"""Gradients of fixed logical shards, added in the order of the shards, and a flag with them.

A batch is cut into shards whatever the number of workers is; worker w of W computes shards w,
w + W, ... and every worker adds the sums of all shards in the shards' order. So the bits of a step
do not depend on the number of workers. A flag travels with the gradients: that a worker's machine
is about to end is known to all at the same step, without a message of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ironcliw.errors import TrainingError


@dataclass(frozen=True, slots=True)
class StepSum:
    """What all workers know after a step's reduction.

    Attributes:
        sums: Of what each shard counted, not yet divided: the loss, and what is measured with it.
        notice: Whether the machine of any worker is about to end.
    """

    sums: tuple[float, ...]
    notice: bool


class PeerLostError(TrainingError):
    """Another worker of the run is gone; another attempt may have all of them."""


class Group(Protocol):
    """The workers of a run."""

    rank: int
    size: int

    def gather(self, part: torch.Tensor) -> Sequence[torch.Tensor]:
        """The equally long vectors of all workers, in the order of their ranks."""
        ...

    def numbers(self, mine: Sequence[float]) -> list[list[float]]:
        """The equally many numbers of each worker, in the order of their ranks.

        Raises:
            PeerLostError: another worker is gone.
        """
        ...

    def agree(self, step: int) -> None:
        """Meet all workers, which have done the same number of steps.

        Raises:
            PeerLostError: one is gone, or has done another number.
        """
        ...


class Alone:
    """A group of one."""

    rank = 0
    size = 1

    def gather(self, part: torch.Tensor) -> Sequence[torch.Tensor]:
        return [part]

    def numbers(self, mine: Sequence[float]) -> list[list[float]]:
        return [list(mine)]

    def agree(self, step: int) -> None:
        """There is nobody else."""


class ProcessGroup:
    """The workers of `torch.distributed`: gloo on CPUs, nccl on CUDA."""

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()

    def gather(self, part: torch.Tensor) -> Sequence[torch.Tensor]:
        parts = [torch.empty_like(part) for _ in range(self.size)]
        try:
            torch.distributed.all_gather(parts, part)
        except RuntimeError as error:
            raise PeerLostError(f"another worker is gone: {error}") from error
        return parts

    def numbers(self, mine: Sequence[float]) -> list[list[float]]:
        # nccl gathers from the GPU only
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        found = self.gather(torch.tensor(mine, dtype=torch.float64, device=device))
        return [part.tolist() for part in found]

    def agree(self, step: int) -> None:
        steps = [int(found) for (found,) in self.numbers([step])]
        if len(set(steps)) > 1:
            raise PeerLostError(
                f"the workers stand after steps {steps}: a checkpoint came or went while they "
                "started; they are to be started again"
            )


class Reducer:
    """Collects the gradients of this worker's shards, and adds those of all workers.

    Args:
        group: The workers.
        shards: Of a batch.
        gradient: [P]; what backward passes accumulate into, and where the sum is put.
        numbers: How many a shard counts beside its gradient; the loss is one.
    """

    def __init__(self, group: Group, shards: int, gradient: torch.Tensor, numbers: int = 1) -> None:
        self._group = group
        self._shards = shards
        self._gradient = gradient
        self._numbers = numbers
        rounds = -(-shards // group.size)
        # the last number is the notice; a worker with fewer shards sends zeros for the last, since
        # gathers need equal lengths
        self._mine = gradient.new_zeros(rounds, len(gradient) + numbers + 1)

    def keep(self, shard: int, *sums: float) -> None:
        """Put the accumulated gradient away as that of a shard, and begin at zero again.

        Args:
            shard: Which.
            sums: Its loss, and what else it counts.
        """
        row = self._mine[shard // self._group.size]
        length = len(self._gradient)
        row[:length] = self._gradient
        row[length:-1] = row.new_tensor(sums)
        self._gradient.zero_()

    def sum(self, notice: bool) -> StepSum:
        """Meet all workers: the gradient is now that of the whole batch.

        They meet once for every shard that a worker has: so one of each worker's is held at a time,
        and not all of them.

        Args:
            notice: Whether this worker's machine is about to end; its shards may be incomplete.
        """
        length = len(self._gradient)
        self._mine[:, -1] = float(notice)
        sums, is_noticed = [0.0] * self._numbers, False
        self._gradient.zero_()
        for first, mine in zip(range(0, self._shards, self._group.size), self._mine, strict=True):
            rows = self._group.gather(mine)
            is_noticed = is_noticed or any(bool(row[-1]) for row in rows)
            for row in rows[: self._shards - first]:
                self._gradient += row[:length]
                told = row[length:-1].tolist()
                sums = [sum_ + each for sum_, each in zip(sums, told, strict=True)]
        self._mine.zero_()
        return StepSum(tuple(sums), is_noticed)
