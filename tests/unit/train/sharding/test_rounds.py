"""The order in which micro-batches are computed does not depend on the number of workers."""

from __future__ import annotations

import pytest

from tests.unit.train.tiny import make_data
from train.data.plan import MicroBatch, Shard, Step, StepPlan
from train.sharding.rounds import rounds_of


def _step(*counts: int) -> Step:
    shards = tuple(
        Shard(tuple(MicroBatch((10 * shard + at,), 1, 1) for at in range(count)))
        for shard, count in enumerate(counts)
    )
    return Step(0, 0, shards)


def _order(step: Step, workers: int) -> list[tuple[int, ...]]:
    return [
        place.batch.rows for each in rounds_of(step, workers) for place in each if place is not None
    ]


@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 0, 3, 1, 1), (4,), (0, 0), (1, 5)])
def test_any_number_of_workers_computes_the_sequence_of_one(counts: tuple[int, ...]) -> None:
    step = _step(*counts)
    expected = _order(step, 1)
    assert len(expected) == sum(counts)
    for workers in range(2, len(counts) + 1):
        assert _order(step, workers) == expected


def test_a_worker_computes_only_its_own_shards_and_no_round_is_empty() -> None:
    data = make_data(rows=30)
    plan = StepPlan(data, seed=1, batch_size=12, shards=5, micro_batch_tokens=40)
    for workers in (1, 2, 3, 5):
        rounds = rounds_of(plan.step(0), workers)
        assert all(any(each) for each in rounds)
        for each in rounds:
            for rank, place in enumerate(each):
                assert place is None or place.shard % workers == rank
    rows = [row for each in _order(plan.step(0), 3) for row in each]
    assert sorted(rows) == list(plan.step(0).rows)
