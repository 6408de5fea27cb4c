"""The newest whole checkpoint is found, and nothing else is ever given."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ironcliw.errors import (
    CheckpointError,
    DamagedCheckpointError,
    InexactResumeError,
    NewerFormatError,
    OtherModelError,
)
from tests.unit.train.checkpoint.samples import FINGERPRINT, assert_is, snapshot
from tests.unit.train.checkpoint.test_manifest import resealed
from train.checkpoint.manifest import FORMAT_VERSION
from train.checkpoint.store import CheckpointStore

FILES = ("adapter.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def folder(root: Path, step: int) -> Path:
    [found] = root.glob(f"step-{step:08d}-*")
    return found


def store_with(root: Path, *steps: int, keep: int = 2) -> CheckpointStore:
    store = CheckpointStore(root, keep)
    for step in steps:
        store.commit(snapshot(step))
    return store


def test_nothing_is_none(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path).newest() is None
    assert CheckpointStore(tmp_path / "absent", read_only=True).newest() is None
    assert not (tmp_path / "absent").exists(), "reading makes no folder"


def test_what_was_committed_comes_back(tmp_path: Path) -> None:
    root = tmp_path / "a run"
    store = CheckpointStore(f"file://{tmp_path}/a%20run")
    manifest = store.commit(snapshot(5))
    checkpoint = store.newest(FINGERPRINT)
    assert_is(checkpoint, 5)
    assert checkpoint is not None
    assert checkpoint.manifest == manifest
    assert checkpoint.manifest.fingerprint == FINGERPRINT
    assert checkpoint.inexact == ()
    assert checkpoint.location == str(folder(root, 5))
    on_disk = sum((folder(root, 5) / name).stat().st_size for name in FILES[:-1])
    assert manifest.size_bytes == on_disk


@pytest.mark.parametrize("keep", [2, 3])
def test_so_many_are_kept(tmp_path: Path, keep: int) -> None:
    store = store_with(tmp_path, 1, 2, 10, 100_000_000, 99_999_999, keep=keep)
    steps = [manifest.step for manifest in store.all()]
    assert steps == [100_000_000, 99_999_999, 10][:keep]


def test_keep_is_two_at_least(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^keep is 1; give 2 or more"):
        CheckpointStore(tmp_path, keep=1)


def test_a_negative_step(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    with pytest.raises(ValueError, match=r"^step is -1"):
        store.commit(dataclasses.replace(snapshot(1), step=-1))


def test_a_step_saved_twice(tmp_path: Path) -> None:
    store = store_with(tmp_path, 4, 5, 5)
    assert [manifest.step for manifest in store.all()] == [5, 5]
    assert_is(store.newest(), 5)


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_is_found(
    tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    store_with(tmp_path / "whole", 1, 2)
    length = (folder(tmp_path / "whole", 2) / file).stat().st_size
    positions = {0, length // 3, length // 2, length - 1}
    for position in positions:
        root = tmp_path / str(position)
        shutil.copytree(tmp_path / "whole", root)
        path = folder(root, 2) / file
        raw = bytearray(path.read_bytes())
        raw[position] ^= 1
        path.write_bytes(raw)
        caplog.clear()
        assert_is(CheckpointStore(root).newest(), 1)
        [record] = caplog.records
        assert record.levelno == logging.ERROR
        assert record.message.startswith(f"DAMAGED CHECKPOINT: {path}")
        if file != "manifest.json":
            assert "expected" in record.message and "found" in record.message
            assert record.message.count("sha256") == 2


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["shortened", "lengthened", "emptied", "missing"])
def test_a_file_that_is_not_whole(tmp_path: Path, file: str, how: str) -> None:
    store = store_with(tmp_path, 1, 2)
    path = folder(tmp_path, 2) / file
    raw = path.read_bytes()
    contents = {"shortened": raw[:-1], "lengthened": raw + b" ", "emptied": b"", "missing": None}
    content = contents[how]
    path.unlink() if content is None else path.write_bytes(content)
    assert_is(store.newest(), 1)


def test_when_none_is_whole_nothing_starts_anew_in_silence(tmp_path: Path) -> None:
    store = store_with(tmp_path, 1, 2)
    for path in tmp_path.glob("*/state.json"):
        path.write_bytes(b"{}")
    with pytest.raises(DamagedCheckpointError, match=r"none of the 2 .*state\.json.*start anew"):
        store.newest()


def test_a_damaged_one_does_not_count_among_the_kept(tmp_path: Path) -> None:
    store = store_with(tmp_path, 1, 2, 3, keep=3)
    (folder(tmp_path, 3) / "state.json").write_bytes(b"{}")
    assert_is(store.newest(), 2)
    store.keep = 2
    # the step is done again, from the one before
    store.commit(snapshot(3))
    assert_is(store.newest(), 3)
    assert sorted(manifest.step for manifest in store.all()) == [2, 3, 3]
    store.commit(snapshot(4))
    assert sorted(manifest.step for manifest in store.all()) == [3, 4], "the damaged one is gone"
    for path in folder(tmp_path, 4).iterdir():
        path.write_bytes(b"")
    assert_is(CheckpointStore(tmp_path).newest(), 3)


def test_one_that_was_moved_to_another_step(tmp_path: Path) -> None:
    store = store_with(tmp_path, 1, 2)
    old = folder(tmp_path, 1)
    old.rename(tmp_path / old.name.replace("00000001", "00000009"))
    assert_is(store.newest(), 2)


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    for name in ("logs", "step-3", "step-00000009-x", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    store = store_with(tmp_path, 1, 2, 3)
    assert_is(store.newest(), 3)
    assert {"logs", "step-3", "step-00000009-x", ".hidden"} <= {p.name for p in tmp_path.iterdir()}


def test_a_newer_format_is_not_passed_over(tmp_path: Path) -> None:
    store = store_with(tmp_path, 1, 2)
    (folder(tmp_path, 2) / "manifest.json").write_bytes(resealed({"format_version": 2, "step": 2}))
    for call in (store.newest, store.all):
        with pytest.raises(NewerFormatError, match=r"format_version 2.*upgrade"):
            call()


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_what_earlier_releases_wrote_is_read(tmp_path: Path, version: int) -> None:
    written = Path(__file__).parent / f"format_{version}"
    assert_is(CheckpointStore(written, read_only=True).newest(FINGERPRINT), 12)


def test_another_model(tmp_path: Path) -> None:
    store = store_with(tmp_path, 1)
    other = dataclasses.replace(FINGERPRINT, model="large", model_digest="f" * 64)
    with pytest.raises(OtherModelError, match=r"step-00000001-.* trained from small"):
        store.newest(other, allow_inexact=True)


def test_an_inexact_resume_is_marked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_with(tmp_path, 1)
    here = dataclasses.replace(FINGERPRINT, threads=1)
    with pytest.raises(InexactResumeError, match="threads: 2 when saved, 1 here"):
        store.newest(here)
    assert caplog.records == []
    checkpoint = store.newest(here, allow_inexact=True)
    assert_is(checkpoint, 1)
    assert checkpoint is not None
    assert checkpoint.inexact == ("threads: 2 when saved, 1 here",)
    [record] = caplog.records
    assert record.message.startswith("INEXACT RESUME from ")
    assert record.message.endswith("threads: 2 when saved, 1 here")


def test_one_that_is_removed_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, writer = store_with(tmp_path, 1, 2), CheckpointStore(tmp_path)
    real, pending = store.backend.read, [3, 4]

    def read(name: str, file: str) -> bytes:
        if file == "state.json" and pending:
            writer.commit(snapshot(pending.pop(0)))
            writer.commit(snapshot(pending.pop(0)))
        return real(name, file)

    monkeypatch.setattr(store.backend, "read", read)
    assert_is(store.newest(), 4)


def test_old_ones_that_cannot_be_removed_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_with(tmp_path, 1, 2)

    def remove(name: str) -> None:
        raise CheckpointError("held by somebody")

    with monkeypatch.context() as patched:
        patched.setattr(store.backend, "remove", remove)
        store.commit(snapshot(3))
    assert "old checkpoints were not removed: held by somebody" in caplog.text
    assert len(store.all()) == 3
    store.commit(snapshot(4))
    assert len(store.all()) == 2


SAVE_MANY = """
import sys
from tests.unit.train.checkpoint.samples import snapshot
from train.checkpoint.store import CheckpointStore
for step in range(int(sys.argv[2]), 40, 2):
    CheckpointStore(sys.argv[1]).commit(snapshot(step))
"""


def test_two_processes_write_and_a_third_reads(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAVE_MANY, str(tmp_path)]
    writers: list[subprocess.Popen[Any]] = [
        subprocess.Popen([*command, first]) for first in ("0", "1")
    ]
    store, seen = CheckpointStore(tmp_path, read_only=True), [-1]
    while any(writer.poll() is None for writer in writers):
        checkpoint = store.newest()
        if checkpoint is not None:
            assert_is(checkpoint, checkpoint.step)
            assert checkpoint.step >= seen[-1]
            seen.append(checkpoint.step)
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(set(seen)) > 5, "the reader looked while they wrote"
    assert_is(store.newest(), 39)
    assert len(store.all()) == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
