"""A program that saves checkpoints in children of its own, which are killed where they are told.

One line of JSON on the input is one save: {"uri", "step", "point", "visit"}; `point` null saves
without a fault. One line on the output is the child's exit status, -9 where it was killed. Children
are forked, since a program of their own would import torch each time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow.fs  # noqa: F401  # before the forks, for the same reason

from tests.unit.train.checkpoint.samples import snapshot
from train.checkpoint.faults import FaultAt, NoFaults, kill
from train.checkpoint.store import CheckpointStore


class DyingSaves:
    """The program, seen from a test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def save(self, uri: str, step: int, point: str | None = None, visit: int = 1) -> int:
        """Exit status of a child that commits the sample of this step."""
        job = {"uri": uri, "step": step, "point": point, "visit": visit}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def dying_saves() -> Iterator[DyingSaves]:
    """The program, while the block runs."""
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield DyingSaves(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def _save(job: dict[str, Any]) -> None:
    faults = FaultAt(job["point"], kill, job["visit"]) if job["point"] else NoFaults()
    CheckpointStore(job["uri"], faults=faults).commit(snapshot(job["step"]))


def main() -> None:
    """Serve the input."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _save(json.loads(line))
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
