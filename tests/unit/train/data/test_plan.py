"""What a step reads: every row once an epoch, whoever asks, and no row sees another."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcliw.errors import DataError, SettingsError
from tests.unit.train.data.token_rows import rows_of
from train.data.order import order
from train.data.plan import IGNORED, MicroBatch, StepPlan, pack, shards_of

LENGTHS = st.lists(st.integers(2, 30), min_size=1, max_size=40)


def plan(lengths: list[int], **changes: Any) -> StepPlan:
    options = {"seed": 5, "batch_size": 8, "shards": 3, "micro_batch_tokens": 40} | changes
    return StepPlan(rows_of(lengths), **options)


def batches(made: StepPlan, step: int) -> list[MicroBatch]:
    return [batch for shard in made.step(step).shards for batch in shard.micro_batches]


@given(lengths=LENGTHS, batch=st.integers(1, 12), shards=st.integers(1, 5), seed=st.integers(0, 9))
def test_every_row_once_an_epoch(lengths: list[int], batch: int, shards: int, seed: int) -> None:
    made = plan(lengths, batch_size=batch, shards=shards, seed=seed)
    for epoch in range(2):
        steps = range(epoch * made.steps_per_epoch, (epoch + 1) * made.steps_per_epoch)
        found = [made.step(step) for step in steps]
        rows = [row for step in found for row in step.rows]
        assert sorted(rows) == list(range(len(lengths)))
        assert {step.epoch for step in found} == {epoch}
        # the last batch has the rest, each other one its size
        sizes = [len(step.rows) for step in found]
        assert sizes[:-1] == [batch] * (len(sizes) - 1)
        assert sizes[-1] == (len(lengths) - 1) % batch + 1


@given(lengths=LENGTHS, shards=st.integers(1, 5), packing=st.booleans())
def test_micro_batches_fit_and_shards_are_balanced(
    lengths: list[int], shards: int, packing: bool
) -> None:
    made = plan(lengths, shards=shards, packing=packing)
    for number in range(made.steps_per_epoch):
        step = made.step(number)
        assert len(step.shards) == shards
        # longest first: a shard is filled up only while it is the lightest
        loads = [shard.tokens for shard in step.shards]
        assert max(loads) - min(loads) <= max(lengths[row] for row in step.rows)
        for batch in batches(made, number):
            assert batch.rows
            assert batch.tokens == sum(lengths[row] for row in batch.rows) <= 40
            assert batch.supervised == sum(max(1, lengths[row] // 2) for row in batch.rows)
            assert packing or len(batch.rows) == 1
        assert step.tokens == sum(loads)
        assert step.supervised == sum(batch.supervised for batch in batches(made, number))


@given(lengths=LENGTHS, workers=st.integers(1, 4))
def test_the_workers_share_what_one_would_compute(lengths: list[int], workers: int) -> None:
    made = plan(lengths, shards=4)
    step = made.step(0)
    parts = [list(shards_of(rank, workers, 4)) for rank in range(workers)]
    assert sorted(shard for part in parts for shard in part) == [0, 1, 2, 3]
    rows = [
        row
        for part in parts
        for shard in part
        for batch in step.shards[shard].micro_batches
        for row in batch.rows
    ]
    assert tuple(sorted(rows)) == step.rows


@given(lengths=LENGTHS, steps=st.lists(st.integers(0, 200), max_size=6))
def test_a_step_depends_on_its_number_alone(lengths: list[int], steps: list[int]) -> None:
    made = plan(lengths)
    for step in steps:
        assert made.step(step) == plan(lengths).step(step)


def test_the_rows_of_a_step_are_the_orders() -> None:
    made = plan([5] * 20, batch_size=6)
    assert made.steps_per_epoch == 4
    assert made.step(5).rows == tuple(sorted(order(5, 1, 20)[6:12].tolist()))
    assert len(made.step(7).rows) == 2
    other = plan([5] * 20, batch_size=6, seed=6)
    assert other.step(0).rows != made.step(0).rows


def test_the_plan_never_changes() -> None:
    # a release with another one could not resume the runs of this one
    made = plan([10, 3, 25, 7, 7, 12, 30, 4, 9], batch_size=5, shards=2)
    found = [
        [[batch.rows for batch in shard.micro_batches] for shard in made.step(step).shards]
        for step in (0, 1)
    ]
    assert found == [[[(2, 1)], [(5, 4, 3)]], [[(6,)], [(0, 8, 7)]]]


def test_a_pickled_plan_is_the_same() -> None:
    made = plan([5] * 20)
    assert pickle.loads(pickle.dumps(made)).step(2) == made.step(2)


def test_packing_is_dense() -> None:
    made = plan([10] * 8, shards=1, micro_batch_tokens=40)
    assert [batch.tokens for batch in batches(made, 0)] == [40, 40]


def test_shards_may_be_empty() -> None:
    made = plan([5, 6], shards=4)
    assert sorted(len(shard.micro_batches) for shard in made.step(0).shards) == [0, 0, 1, 1]


class TestPacked:
    """The arrays of a micro-batch."""

    def test_rows_follow_each_other(self) -> None:
        data = rows_of([3, 2, 4])
        packed = pack(data, MicroBatch((2, 0), 7, 3))
        assert packed.tokens.tolist() == [2000, 2001, 2002, 2003, 0, 1, 2]
        assert packed.positions.tolist() == [0, 1, 2, 3, 0, 1, 2]
        assert packed.cu_seqlens.tolist() == [0, 4, 7]
        assert packed.longest == 4
        assert (packed.places.tolist(), packed.targets.tolist()) == ([1, 2, 5], [2002, 2003, 2])
        ignored = IGNORED
        assert packed.labels.tolist() == [ignored, 2002, 2003, ignored, ignored, 2, ignored]
        kinds = {a.dtype.name for a in (packed.tokens, packed.positions, packed.cu_seqlens)}
        assert kinds == {"int32"}
        assert {a.dtype.name for a in (packed.places, packed.targets, packed.labels)} == {"int64"}

    @given(lengths=st.lists(st.integers(2, 9), min_size=1, max_size=6))
    def test_no_target_is_of_another_row(self, lengths: list[int]) -> None:
        data = rows_of(lengths)
        rows = tuple(range(len(lengths)))
        packed = pack(data, MicroBatch(rows, sum(lengths), 0))
        row_of = np.repeat(np.arange(len(lengths)), lengths)
        assert (row_of[packed.places] == row_of[packed.places + 1]).all()
        assert (packed.tokens[packed.places + 1] == packed.targets).all()
        assert len(packed.places) == data.supervised.sum()


@pytest.mark.parametrize("name", ["batch_size", "shards", "micro_batch_tokens"])
def test_a_number_out_of_range(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is 0; give a number from 1"):
        plan([3], **{name: 0})


def test_a_row_longer_than_a_micro_batch() -> None:
    with pytest.raises(DataError, match=r"a.jsonl:2 has 41 tokens, more than micro_batch_tokens"):
        plan([3, 41])


def test_no_rows() -> None:
    with pytest.raises(DataError, match="no rows to train on"):
        plan([])


def test_more_workers_than_shards() -> None:
    with pytest.raises(SettingsError, match=r"3 workers share 2 logical shards, .* at least 3"):
        shards_of(0, 3, 2)
