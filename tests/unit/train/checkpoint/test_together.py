"""Several workers write one checkpoint: all of it or nothing, and all of them know which."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ironcliw.errors import CheckpointError, DamagedCheckpointError
from ironcliw.retries import is_transient
from tests.unit.train.checkpoint.samples import FINGERPRINT
from train.checkpoint.faults import FaultAt, Faults, fail_with
from train.checkpoint.manifest import Manifest
from train.checkpoint.snapshot import Checkpoint, Snapshot
from train.checkpoint.store import CheckpointStore
from train.checkpoint.together import SharedStore

WORKERS = 3


class Member:
    """A worker of a test: a thread."""

    def __init__(self, rank: int, places: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, len(places)
        self._places, self._barrier = places, barrier

    def exchange(self, value: Any) -> Sequence[Any]:
        self._places[self.rank] = value
        self._barrier.wait()
        found = list(self._places)
        self._barrier.wait()
        return found


def together(
    folder: Path, act: Callable[[SharedStore, int], Any], faults: list[Faults | None]
) -> list[Any]:
    """What each worker's call gives, or the error that it raises."""
    places: list[Any] = [None] * WORKERS
    barrier = threading.Barrier(WORKERS, timeout=60)
    found: list[Any] = [None] * WORKERS

    def run(rank: int) -> None:
        store = CheckpointStore(folder, faults=faults[rank], read_only=rank != 0)
        try:
            found[rank] = act(SharedStore(store, Member(rank, places, barrier)), rank)
        except Exception as error:  # noqa: BLE001  # the test looks at it
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def snapshot(rank: int, step: int) -> Snapshot:
    tensors = {f"shard_{rank}_of_{WORKERS}/values/a": torch.arange(4.0) + 10 * rank + step}
    return Snapshot(step, tensors, {"rank": rank}, FINGERPRINT)


def commit(folder: Path, step: int, faults: list[Faults | None] | None = None) -> list[Any]:
    return together(
        folder, lambda store, rank: store.commit(snapshot(rank, step)), faults or [None] * WORKERS
    )


def whole(folder: Path) -> Checkpoint | None:
    return CheckpointStore(folder, read_only=True).newest()


def test_the_manifest_lists_every_workers_file(tmp_path: Path) -> None:
    found = commit(tmp_path, 7)
    assert all(isinstance(each, Manifest) for each in found), found
    assert found[0].files == found[1].files == found[2].files
    names = [file.name for file in found[0].files]
    assert sorted(names) == [*(f"shard_{r}_of_3.safetensors" for r in range(3)), "state.json"]
    checkpoint = whole(tmp_path)
    assert checkpoint is not None
    assert checkpoint.state == {"rank": 0}
    for rank in range(WORKERS):
        expected = snapshot(rank, 7).tensors
        assert all(torch.equal(checkpoint.tensors[key], expected[key]) for key in expected)


@pytest.mark.parametrize("rank", range(WORKERS))
def test_a_worker_that_cannot_write_fails_all(tmp_path: Path, rank: int) -> None:
    commit(tmp_path, 1)
    faults: list[Faults | None] = [None] * WORKERS
    faults[rank] = FaultAt("file-written", fail_with(OSError(28, "No space left on device")))
    found = commit(tmp_path, 2, faults)
    for each in found:
        assert isinstance(each, CheckpointError)
        assert f"worker {rank}: " in each.message
        assert "No space left" in each.message
    checkpoint = whole(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".partial")] == []
    assert all(isinstance(each, Manifest) for each in commit(tmp_path, 3))


@pytest.mark.parametrize("also", [None, OSError(28, "No space left on device")])
def test_all_know_whether_a_failure_may_pass(tmp_path: Path, also: OSError | None) -> None:
    lost = FaultAt("file-written", fail_with(ConnectionResetError("reset by peer")))
    full = None if also is None else FaultAt("file-written", fail_with(also))
    for each in commit(tmp_path, 2, [None, lost, full]):
        assert isinstance(each, CheckpointError)
        assert is_transient(each) is (also is None)


@pytest.mark.parametrize("point", ["partial-folder-made", "manifest-written", "renamed"])
def test_a_commit_that_fails_is_known_to_all(tmp_path: Path, point: str) -> None:
    faults: list[Faults | None] = [FaultAt(point, fail_with(OSError(5, "broken"))), None, None]
    for each in commit(tmp_path, 2, faults):
        assert isinstance(each, CheckpointError)
        assert "broken" in each.message


def load(folder: Path, damaged: dict[int, int]) -> list[Any]:
    """Each worker's newest; worker and step of a part that it finds damaged."""

    def act(store: SharedStore, rank: int) -> Checkpoint | None:
        reader = CheckpointStore(folder, read_only=True)

        def read(name: str) -> Checkpoint:
            manifest = reader.manifest(name)
            if damaged.get(rank) == manifest.step:
                raise DamagedCheckpointError(f"the part of worker {rank} is damaged")
            return Checkpoint(manifest.step, {}, {}, manifest, name)

        return store.newest(read)

    return together(folder, act, [None] * WORKERS)


def test_a_part_that_is_damaged_lets_all_use_the_one_before(tmp_path: Path) -> None:
    assert load(tmp_path, {}) == [None] * WORKERS
    for step in (1, 2):
        commit(tmp_path, step)
    assert [each.step for each in load(tmp_path, {})] == [2, 2, 2]
    assert [each.step for each in load(tmp_path, {1: 2})] == [1, 1, 1]
    for each in load(tmp_path, {1: 2, 2: 1}):
        assert isinstance(each, DamagedCheckpointError)
        assert "the part of worker 2 is damaged" in each.message
