"""When a run is saved, in a real folder."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from ironcliw.errors import CheckpointError
from tests.unit.train.checkpoint.samples import assert_is, snapshot
from train.checkpoint.faults import FaultAt, fail_with
from train.checkpoint.interval import (
    SaveCost,
    choose_interval,
    mean_seconds_between_failures,
)
from train.checkpoint.options import CheckpointOptions
from train.checkpoint.snapshot import Snapshot
from train.checkpoint.store import CheckpointStore
from train.checkpoint.writer import AsyncWriter
from train.loop.saving import Saver


class Commits(CheckpointStore):
    """Writes down what is committed."""

    steps: list[int]

    def commit(self, snapshot: Snapshot) -> object:  # type: ignore[override]
        self.steps = [*getattr(self, "steps", []), snapshot.step]
        return super().commit(snapshot)


def make(
    folder: Path, every: object, *, step: int = 0, machines: int = 1
) -> tuple[Saver, AsyncWriter, Commits]:
    store = Commits(folder)
    writer = AsyncWriter(store)
    options = CheckpointOptions.model_validate({"every": every})
    return Saver(writer, options, machines, step), writer, store


def go(saver: Saver, steps: range, seconds: float = 0.1) -> None:
    for step in steps:
        saver.after_step(step, seconds, lambda step=step: snapshot(step))  # type: ignore[misc]


@pytest.mark.parametrize(("begun", "expected"), [(0, [3, 6, 9]), (4, [7, 10]), (6, [9])])
def test_it_is_due_every_k_steps_from_where_the_attempt_began(
    begun: int, expected: list[int], tmp_path: Path
) -> None:
    saver, writer, store = make(tmp_path, 3, step=begun)
    go(saver, range(begun + 1, 11))
    writer.wait()
    assert store.steps == expected
    assert_is(store.newest(), expected[-1])


@pytest.mark.parametrize(("every", "saved", "waits"), [(2, 2, True), ("auto", 1, False)])
def test_a_sudden_death_costs_the_steps_between_two_saves(
    every: object, saved: int, waits: bool, tmp_path: Path
) -> None:
    saver, writer, store = make(tmp_path, every)
    may_commit = threading.Event()
    real = store.commit

    def commit(taken: Snapshot) -> object:
        assert may_commit.wait(60)
        return real(taken)

    store.commit = commit  # type: ignore[method-assign]
    go(saver, range(1, saved + 1))
    threading.Timer(0.3, may_commit.set).start()
    saver.hold(2)
    assert not may_commit.is_set(), "two steps may be lost"
    saver.hold(3)
    assert may_commit.is_set() is waits
    writer.wait()
    assert_is(store.newest(), saved)


def test_a_snapshot_is_made_only_when_it_is_due(tmp_path: Path) -> None:
    saver, _, _ = make(tmp_path, 3)

    def never() -> Snapshot:
        raise AssertionError("nothing is due")

    saver.after_step(1, 0.1, never)
    saver.after_step(2, 0.1, never)
    with pytest.raises(AssertionError):
        saver.after_step(3, 0.1, never)


class SlowWriter:
    """Of a storage whose saves cost what the test says."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.cost: SaveCost | None = None

    def submit(self, snapshot: Snapshot) -> float:
        self.steps.append(snapshot.step)
        return 0.0


@pytest.mark.parametrize("machines", [1, 4])
def test_auto_saves_early_and_then_as_often_as_a_save_costs(machines: int) -> None:
    writer: Any = SlowWriter()
    saver = Saver(writer, CheckpointOptions(), machines, 0)
    assert saver.every == 1
    go(saver, range(1, 3), seconds=2.0)
    # nothing is known of the cost before a save is durable
    assert (writer.steps, saver.every) == ([1, 2], 1)
    writer.cost = SaveCost(0.5, 2.0)
    go(saver, range(3, 4), seconds=2.0)
    mtbf = mean_seconds_between_failures(40.0, machines=machines)
    expected = choose_interval(writer.cost, 2.0, mtbf).steps
    assert saver.every == expected > 10
    go(saver, range(4, 2 * expected + 4), seconds=2.0)
    assert writer.steps == [1, 2, 3, 3 + expected, 3 + 2 * expected]


def test_one_slow_step_does_not_change_the_interval() -> None:
    writer: Any = SlowWriter()
    writer.cost = SaveCost(0.5, 2.0)
    saver = Saver(writer, CheckpointOptions(), 1, 0)
    go(saver, range(1, 2), seconds=2.0)
    before = saver.every
    go(saver, range(2, before), seconds=2.0)
    go(saver, range(before, before + 1), seconds=900.0)
    go(saver, range(before + 1, before + 2), seconds=2.0)
    assert len(writer.steps) == 2
    assert saver.every == before


def test_now_saves_and_does_not_save_twice(tmp_path: Path) -> None:
    saver, _, store = make(tmp_path, 5)
    manifest = saver.now(snapshot(3))
    assert manifest is not None
    assert manifest.step == 3
    assert saver.now(snapshot(3)) == manifest
    assert store.steps == [3]
    go(saver, range(4, 8))
    assert store.steps == [3], "the interval begins anew"
    go(saver, range(8, 9))
    assert saver.now(snapshot(8)) is not None
    assert store.steps == [3, 8]
    saver.now(snapshot(9))
    assert store.steps == [3, 8, 9]
    assert_is(store.newest(), 9)


def test_a_save_that_failed_is_told_at_the_next(tmp_path: Path) -> None:
    store = CheckpointStore(
        tmp_path, faults=FaultAt("file-written", fail_with(OSError(28, "No space left on device")))
    )
    saver = Saver(AsyncWriter(store), CheckpointOptions(every=1), 1, 0)
    go(saver, range(1, 2))
    with pytest.raises(CheckpointError, match="No space left on device"):
        go(saver, range(2, 3))


def test_the_last_save_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    full = FaultAt("file-written", fail_with(OSError(28, "No space left on device")))
    store = CheckpointStore(tmp_path, faults=full)
    saver = Saver(AsyncWriter(store), CheckpointOptions(every=1), 1, 0)
    go(saver, range(1, 2))
    manifest = saver.now(snapshot(2))  # by now there is room
    assert manifest is not None
    assert manifest.step == 2
    assert "No space left on device" in caplog.text
    assert_is(store.newest(), 2)
