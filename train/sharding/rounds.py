"""The gradient of a step of a model in pieces.

Each worker computes whole micro-batches of its own logical shards, and all workers do so at the
same time, layer by layer: a round. Round by round they take the first micro-batch of shards 0, 1,
..., then the second of all shards, and so on; a shard without one is left out. Worker w of W
computes shard w of the first round, w + W of the next: so the sequence of micro-batches, and of
the additions, is the same for every number of workers up to the shards'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from train.data.plan import MicroBatch, Step
from train.loop.objective import Objective
from train.loop.reduce import Group, StepSum
from train.randomness import seeded
from train.sharding.load import ShardedModel
from train.sharding.parameters import ShardedParameters
from train.sharding.saving import ShardedSaver
from train.sharding.signals import Signals


@dataclass(frozen=True, slots=True)
class Place:
    """A micro-batch of a step.

    Attributes:
        shard: Which it is of.
        number: Within the shard.
        batch: Its rows.
    """

    shard: int
    number: int
    batch: MicroBatch


Round = tuple[Place | None, ...]
"""What each worker computes; None: nothing that counts."""


def rounds_of(step: Step, workers: int) -> list[Round]:
    """What the workers compute together, in order. Rounds in which nobody computes are left out."""
    found: list[Round] = []
    shards = step.shards
    longest = max((len(shard.micro_batches) for shard in shards), default=0)
    for number in range(longest):
        for first in range(0, len(shards), workers):
            made = [
                Place(shard, number, shards[shard].micro_batches[number])
                if shard < len(shards) and number < len(shards[shard].micro_batches)
                else None
                for shard in range(first, first + workers)
            ]
            if any(made):
                found.append(tuple(made))
    return found


class Rounds:
    """Computes steps.

    Args:
        model: In pieces.
        flat: What is trained of it.
        objective: What is minimised.
        group: The workers.
        signals: Between them.
        saver: Of this worker's pieces.
        seed: Of the run.
    """

    def __init__(
        self,
        model: ShardedModel,
        flat: ShardedParameters,
        objective: Objective,
        group: Group,
        signals: Signals,
        saver: ShardedSaver,
        seed: int,
    ) -> None:
        self._model, self._flat, self._objective = model, flat, objective
        self._group, self._signals, self._saver, self._seed = group, signals, saver, seed

    def compute(self, step: Step) -> StepSum:
        """The gradient of a step, in the pieces' vector, unless a worker is to leave.

        Raises:
            PeerLostError: another worker is gone.
            CheckpointError: the save before this one failed.
        """
        notice, save = self._signals.exchange()
        count = 1 + len(self._objective.measures)
        if notice:
            return StepSum((0.0,) * count, notice=True)
        if save:
            self._saver.save_agreed()
        rounds = rounds_of(step, self._group.size)
        mine = [self._pass(step, at, each) for at, each in enumerate(rounds)]
        self._flat.collect()
        for each in self._model.sums:
            each.forget()
        return StepSum(self._added(rounds, mine, count), notice=False)

    def updated(self) -> None:
        """Let the model compute with what the optimizer has made."""
        self._flat.publish()

    def _pass(self, step: Step, number: int, places: Round) -> Sequence[float]:
        """This worker's part of a round; the sums of what it computed."""
        turn = self._model.turn
        turn.active = [place is not None for place in places]
        turn.number = number
        # who has nothing to do computes what another one does, since all must meet in every layer
        place = places[self._group.rank] or next(each for each in places if each is not None)
        if self._group.size > 1:
            self._flat.clear()
        with seeded(self._seed, step.number, place.shard, place.number, device=self._model.device):
            return self._objective.backward(place.batch)

    def _added(
        self, rounds: list[Round], mine: list[Sequence[float]], count: int
    ) -> tuple[float, ...]:
        """The sums over all micro-batches that count, in their order."""
        device = self._flat.values.device
        sent = torch.tensor(mine, dtype=torch.float64, device=device).view(-1)
        found = [part.view(-1, count).tolist() for part in self._group.gather(sent)]
        sums = [0.0] * count
        for number, places in enumerate(rounds):
            for rank, place in enumerate(places):
                if place is not None:
                    sums = [a + b for a, b in zip(sums, found[rank][number], strict=True)]
        return tuple(sums)
