"""Saving beside training: what is durable is what was submitted, and no error is lost."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from ironcliw.errors import CheckpointError, DeadlineExceededError
from tests.unit.train.checkpoint.samples import assert_is, snapshot
from train.checkpoint.faults import FaultAt, fail_with
from train.checkpoint.manifest import Manifest
from train.checkpoint.snapshot import Snapshot
from train.checkpoint.store import CheckpointStore
from train.checkpoint.writer import AsyncWriter


class Gate:
    """Holds the writing thread at the beginning of each commit."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()

    def reach(self, point: str) -> None:
        if point == "begun":
            self.reached.set()
            assert self.open.wait(60)


def training(step: int) -> Snapshot:
    """A snapshot whose tensors and state training goes on to change."""
    sample = snapshot(step)
    return dataclasses.replace(sample, tensors={k: v.clone() for k, v in sample.tensors.items()})


def test_what_is_submitted_is_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, changed = CheckpointStore(tmp_path), threading.Event()
    real = store.commit

    def commit(snap: Snapshot) -> Manifest:
        assert changed.wait(60)
        return real(snap)

    monkeypatch.setattr(store, "commit", commit)
    writer = AsyncWriter(store)
    snap = training(7)
    blocked = writer.submit(snap)
    for tensor in snap.tensors.values():
        tensor.add_(1)
    snap.state["log"]["losses"].append(9.9)
    changed.set()
    manifest = writer.wait()
    assert manifest is not None and manifest.step == 7
    assert_is(CheckpointStore(tmp_path).newest(), 7)
    assert writer.cost is not None
    assert writer.cost.blocking_seconds == blocked
    assert writer.cost.durable_seconds >= blocked
    assert writer.cost.size_bytes == manifest.size_bytes


def test_nothing_submitted(tmp_path: Path) -> None:
    writer = AsyncWriter(CheckpointStore(tmp_path))
    assert (writer.wait(), writer.stop(), writer.cost) == (None, None, None)


def test_a_deadline(tmp_path: Path) -> None:
    gate = Gate()
    writer = AsyncWriter(CheckpointStore(tmp_path, faults=gate))
    writer.submit(training(7))
    with pytest.raises(DeadlineExceededError, match=r"not durable after 0\.01 s"):
        writer.wait(0.01)
    gate.open.set()
    manifest = writer.stop(30)
    assert manifest is not None and manifest.step == 7


def test_the_next_one_waits(tmp_path: Path) -> None:
    gate = Gate()
    writer = AsyncWriter(CheckpointStore(tmp_path, faults=gate))
    writer.submit(training(1))
    assert gate.reached.wait(60)
    second = threading.Thread(target=writer.submit, args=(training(2),))
    second.start()
    second.join(0.1)
    assert second.is_alive(), "it would overwrite what is being written"
    gate.open.set()
    second.join(60)
    writer.stop()
    assert [manifest.step for manifest in CheckpointStore(tmp_path).all()] == [2, 1]
    assert_is(CheckpointStore(tmp_path).newest(), 2)


def test_the_copies_are_used_again(tmp_path: Path) -> None:
    writer = AsyncWriter(CheckpointStore(tmp_path))
    writer.submit(training(1))
    writer.wait()
    before = {name: buffer.data_ptr() for name, buffer in writer._buffers.items()}
    writer.submit(training(2))
    writer.wait()
    assert {name: buffer.data_ptr() for name, buffer in writer._buffers.items()} == before
    assert_is(CheckpointStore(tmp_path).newest(), 2)


def test_tensors_may_come_go_and_change(tmp_path: Path) -> None:
    writer, store = AsyncWriter(CheckpointStore(tmp_path)), CheckpointStore(tmp_path)
    shapes = ({"a/x": torch.ones(2), "a/y": torch.ones(1)}, {"a/x": torch.zeros(3, 2).t()})
    for step, tensors in enumerate(shapes):
        writer.submit(dataclasses.replace(snapshot(1), step=step, tensors=tensors))
        writer.wait()
        newest = store.newest()
        assert newest is not None and newest.tensors.keys() == tensors.keys()
        assert all(torch.equal(newest.tensors[name], tensors[name]) for name in tensors)
    writer.submit(dataclasses.replace(snapshot(1), step=9, tensors={"a/x": torch.ones(3, 2).int()}))
    writer.stop()
    newest = store.newest()
    assert newest is not None and newest.tensors["a/x"].dtype == torch.int32


def failing(root: Path) -> AsyncWriter:
    full = fail_with(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    return AsyncWriter(CheckpointStore(root, faults=FaultAt("file-written", full)))


def test_an_error_is_raised_at_the_next_submit_once(tmp_path: Path) -> None:
    writer = failing(tmp_path)
    writer.submit(training(1))
    with pytest.raises(CheckpointError, match="No space left"):
        writer.submit(training(2))
    writer.submit(training(2))
    manifest = writer.wait()
    assert manifest is not None and manifest.step == 2
    assert_is(CheckpointStore(tmp_path).newest(), 2)


def test_an_error_is_raised_by_wait_and_told_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = failing(tmp_path)
    writer.submit(training(1))
    with pytest.raises(CheckpointError, match="No space left"):
        writer.wait()
    assert "step 1 was not saved" in caplog.text
    assert writer.cost is None


def test_any_other_error_is_raised_too(tmp_path: Path) -> None:
    broken = FaultAt("file-written", fail_with(RuntimeError("a defect")))
    writer = AsyncWriter(CheckpointStore(tmp_path, faults=broken))
    writer.submit(training(1))
    with pytest.raises(RuntimeError, match="a defect"):
        writer.stop()
