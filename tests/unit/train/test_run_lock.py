"""One job at a time for a run: in a folder by the system, in a bucket by a count that moves."""

from __future__ import annotations

import os
import re
import time
import uuid
from pathlib import Path

import pytest

from ironcliw.errors import CheckpointError, ConflictError
from train.run_files import RunFiles
from train.run_lock import LEASE_SECONDS, LOCK, Lease, held


def bucket() -> RunFiles:
    return RunFiles(f"memory://{uuid.uuid4().hex}/run")


def test_a_folder_has_one_holder(tmp_path: Path) -> None:
    files = RunFiles(f"{tmp_path}/run")
    used = f"run a is in use by process {os.getpid()} on .*; wait for its end or stop it"
    with held(files, "run a"):
        with pytest.raises(ConflictError, match=used), held(files, "run a"):
            raise AssertionError("it is held")
        with held(RunFiles(f"{tmp_path}/other"), "run b"):
            pass
    with held(files, "run a"):
        pass
    with pytest.raises(BlockingIOError), held(files, "run a"):
        raise BlockingIOError("of the block itself")
    with held(files, "run a"):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with (
        pytest.raises(CheckpointError, match="cannot be written"),
        held(RunFiles(f"{tmp_path}/run"), "run a"),
    ):
        raise AssertionError("it is held")


def test_a_bucket_is_given_back(caplog: pytest.LogCaptureFixture) -> None:
    files = bucket()
    for _ in range(2):
        with held(files, "run a"):
            assert files.read(LOCK) is not None
        assert files.read(LOCK) is None
    assert not caplog.records, "nobody had to be waited for"


def test_a_holder_that_lives_is_found_out_by_its_count() -> None:
    files = bucket()
    with Lease(files, "run a", beat_seconds=0.01).held():
        told = re.escape(f"run a is in use by process {os.getpid()} on ")
        second = Lease(files, "run a", wait=lambda seconds: time.sleep(0.2))
        with pytest.raises(ConflictError, match=told), second.held():
            raise AssertionError("it is held")
        assert (files.read(LOCK) or {})["count"] > 1


def test_a_holder_that_died_is_waited_for_and_followed(caplog: pytest.LogCaptureFixture) -> None:
    files, waits = bucket(), list[float]()
    files.write(LOCK, {"holder": "x", "host": "a-dead-head", "pid": 7, "count": 3})
    with Lease(files, "run a", wait=waits.append).held():
        assert sum(waits) == LEASE_SECONDS
        assert (files.read(LOCK) or {})["pid"] == os.getpid()
    assert "held by process 7 on a-dead-head" in caplog.text
    assert files.read(LOCK) is None


def test_one_that_ends_meanwhile_is_followed_at_once() -> None:
    files, waits = bucket(), list[float]()
    files.write(LOCK, {"holder": "x", "host": "h", "pid": 7, "count": 3})

    def wait(seconds: float) -> None:
        waits.append(seconds)
        files.remove(LOCK)

    with Lease(files, "run a", wait=wait).held():
        assert len(waits) == 1


def test_a_run_that_another_job_took_is_not_taken_back(caplog: pytest.LogCaptureFixture) -> None:
    files = bucket()
    other = {"holder": "x", "host": "h", "pid": 7, "count": 3}
    with Lease(files, "run a", beat_seconds=0.01).held():
        deadline = time.monotonic() + 20
        while "another job has taken run a" not in caplog.text:
            assert time.monotonic() < deadline
            files.write(LOCK, other)
            time.sleep(0.02)
        files.write(LOCK, other)
    assert files.read(LOCK) == other
