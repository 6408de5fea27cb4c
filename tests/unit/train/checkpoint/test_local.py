"""A folder of checkpoints holds the old one or the new one, whatever happens while one is saved."""

from __future__ import annotations

import errno
import io
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ironcliw.errors import CheckpointError, DamagedCheckpointError
from tests.unit.train.checkpoint.dying_saves import DyingSaves, dying_saves
from tests.unit.train.checkpoint.samples import assert_is, snapshot
from train.checkpoint import disk, faults
from train.checkpoint.faults import FaultAt, NoFaults, Recorder, fail_with
from train.checkpoint.local import LocalFolder
from train.checkpoint.store import CheckpointStore

OLD, NEW = 2, 3
COMMIT = "renamed"


@pytest.fixture(scope="module")
def saves() -> Iterator[DyingSaves]:
    with dying_saves() as program:
        yield program


def prepare(root: Path) -> None:
    """Two checkpoints, and what two killed processes left behind."""
    store = CheckpointStore(root)
    for step in (OLD - 1, OLD):
        store.commit(snapshot(step))
    (root / ".partial-step-00000009-0123456789ab01234567").mkdir()
    (root / ".old-step-00000001-0123456789ab01234567").mkdir()


def visits(root: Path) -> list[tuple[str, int]]:
    """Every place that a save reaches, and how often it was reached by then."""
    recorder = Recorder()
    CheckpointStore(root, faults=recorder).commit(snapshot(NEW))
    reached = recorder.reached
    return [(point, reached[: n + 1].count(point)) for n, point in enumerate(reached)]


def others(root: Path) -> list[str]:
    """What there is besides committed checkpoints."""
    return sorted(path.name for path in root.iterdir() if not path.name.startswith("step-"))


def test_a_kill_anywhere_leaves_the_old_or_the_new(
    tmp_path: Path, saves: DyingSaves, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(tmp_path / "prepared")
    shutil.copytree(tmp_path / "prepared", tmp_path / "recorded")
    places = visits(tmp_path / "recorded")
    assert {point for point, _ in places} == set(faults.LOCAL_POINTS)
    commit = places.index((COMMIT, 1))
    for n, (point, visit) in enumerate(places):
        root = tmp_path / f"{n}-{point}"
        shutil.copytree(tmp_path / "prepared", root)
        assert saves.save(str(root), NEW, point, visit) == -9, point
        # as whoever resumes finds it, before and after it makes order
        for read_only in (True, False):
            store = CheckpointStore(root, read_only=read_only)
            assert_is(store.newest(), NEW if n >= commit else OLD)
            assert len(store.all()) >= store.keep
        assert others(root) == [], point
        assert saves.save(str(root), NEW + 1) == 0
        assert_is(CheckpointStore(root).newest(), NEW + 1)
        assert len(store.all()) == store.keep, point
    assert "DAMAGED" not in caplog.text, "an unfinished save is no checkpoint"


def test_the_order_of_a_commit(tmp_path: Path) -> None:
    """What is durable when: a rename before an fsync would pass the test above."""
    recorder = Recorder()
    CheckpointStore(tmp_path, faults=recorder).commit(snapshot(NEW))
    one = ["block-written", "file-written", "file-fsynced"]
    header_and_tensors = ["block-written", "block-written"]
    assert recorder.reached == [
        "begun", "partial-folder-made", *header_and_tensors, *one, *header_and_tensors, *one, *one,
        "block-written", "manifest-written", "manifest-fsynced", "partial-folder-fsynced",
        "renamed", "root-fsynced",
    ]  # fmt: skip


def test_each_file_and_folder_is_fsynced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        real(handle)

    if sys.platform != "linux":
        pytest.skip("names of open files are read from /proc")
    store = CheckpointStore(tmp_path)
    monkeypatch.setattr(os, "fsync", fsync)
    store.commit(snapshot(NEW))
    files, [partial, root] = synced[:-2], synced[-2:]
    assert files == ["adapter.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
    assert partial.startswith(".partial-step-00000003-")
    assert root == tmp_path.name


def test_only_what_is_out_of_sight_is_taken_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads finds a checkpoint whole or not at all; taking one apart has no such moment."""
    prepare(tmp_path)
    taken_apart: list[str] = []
    real = shutil.rmtree

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        taken_apart.append(path.name)
        real(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    CheckpointStore(tmp_path).commit(snapshot(NEW))
    assert len(taken_apart) == 3
    assert all(name.startswith((".old-", ".partial-")) for name in taken_apart)


@pytest.mark.parametrize("point", faults.LOCAL_POINTS[: faults.LOCAL_POINTS.index(COMMIT)])
def test_a_full_disk_at_any_write(tmp_path: Path, point: str) -> None:
    store = CheckpointStore(tmp_path)
    store.commit(snapshot(OLD))
    full = fail_with(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    failing = CheckpointStore(tmp_path, faults=FaultAt(point, full))
    with pytest.raises(
        CheckpointError, match=r"step-00000003-.* MB, could not be .*No space.*free some space.*as"
    ):
        failing.commit(snapshot(NEW))
    assert others(tmp_path) == [], "what was begun takes space, too"
    assert_is(store.newest(), OLD)
    failing.commit(snapshot(NEW))
    assert_is(store.newest(), NEW)


def limited(call: Callable[[], None], size_bytes: int) -> None:
    """No file may grow past a size, as if the disk were full: write() gives less, then an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        call()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.commit(snapshot(OLD))
    with pytest.raises(CheckpointError, match="larger than this process may write"):
        limited(lambda: store.commit(snapshot(NEW)) and None, 200)
    assert others(tmp_path) == []
    assert_is(store.newest(), OLD)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be written to .*file/run.*part of the path"):
        CheckpointStore(tmp_path / "file/run")
    with pytest.raises(CheckpointError, match=r"cannot be written to .*file: .*has this name"):
        CheckpointStore(tmp_path / "file")


def test_an_unwritable_folder_is_told_at_the_start(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    user = os.geteuid()
    if user == 0:  # whom no permission stops
        os.seteuid(65534)
    try:
        with pytest.raises(CheckpointError, match=r"denied.*folder that this user may write to"):
            CheckpointStore(tmp_path)
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o755)


def test_a_vanished_folder(tmp_path: Path) -> None:
    root = tmp_path / "run"
    store = CheckpointStore(root)
    store.commit(snapshot(OLD))
    root.rename(tmp_path / "moved")
    for call in (lambda: store.commit(snapshot(NEW)), store.newest, store.all):
        with pytest.raises(CheckpointError, match=r"run has vanished.*move the folder back"):
            call()
    # as when a disk is unmounted: the empty folder below it is there, and must stay empty
    root.mkdir()
    with pytest.raises(CheckpointError, match=r"run has vanished, or is another one"):
        store.commit(snapshot(NEW))
    assert list(root.iterdir()) == []
    root.rmdir()
    (tmp_path / "moved").rename(root)
    store.commit(snapshot(NEW))
    assert_is(store.newest(), NEW)


def test_a_system_that_writes_less_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does near a quota, or after a signal."""

    class Short(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(data[:7])

    def opened(path: Path, *args: Any, **named: Any) -> Any:
        # other threads of this process open files, too
        return Short(path, "x") if tmp_path in path.parents else real(path, *args, **named)

    store, real = CheckpointStore(tmp_path), Path.open
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        store.commit(snapshot(NEW))
    assert_is(store.newest(), NEW)


@pytest.mark.parametrize("moment", ["opened", "locked"])
def test_a_new_folder_that_another_process_takes_for_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """It has no lock yet between its making and its locking."""
    taken: list[Path] = []
    real_open, real_flock = os.open, disk.fcntl.flock

    def take() -> None:
        found = list(tmp_path.glob(".partial-*"))
        if found and not taken:
            taken.extend(found)
            found[0].rmdir()

    def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if moment == "opened":
            take()
        return real_open(path, flags, *rest, **named)

    def locked(handle: int, operation: int) -> None:
        if moment == "locked":
            take()
        real_flock(handle, operation)

    store = CheckpointStore(tmp_path)
    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(disk.fcntl, "flock", locked)
    store.commit(snapshot(NEW))
    assert taken
    assert_is(store.newest(), NEW)
    assert others(tmp_path) == []


def test_a_bad_sector_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LocalFolder(tmp_path, NoFaults())

    def unreadable(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "read_bytes", unreadable)
    with pytest.raises(DamagedCheckpointError, match=r"state\.json cannot be read"):
        folder.read("step", "state.json")


def test_the_partial_folder_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    partial = tmp_path / ".partial-step-00000003-0123456789ab01234567"
    with disk.made_and_locked(partial):
        CheckpointStore(tmp_path)
        assert partial.exists()
    CheckpointStore(tmp_path)
    assert not partial.exists()


def test_a_partial_folder_without_locks_is_kept_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(disk.fcntl, "flock", no_locks)
    partial = tmp_path / ".partial-step-00000003-0123456789ab01234567"
    partial.mkdir()
    store = CheckpointStore(tmp_path)
    assert partial.exists()
    store.commit(snapshot(NEW))
    assert_is(store.newest(), NEW)
    os.utime(partial, (0, 0))
    CheckpointStore(tmp_path)
    assert not partial.exists()
