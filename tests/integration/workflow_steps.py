"""Functions that the workflows of `test_workflows_head` name; imported on the head."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from actors.functions import current_step, function

_LONGEST_SECONDS = 120.0
_WHILE_SECONDS = 0.6


@function("tests.note", idempotent=True)
def note(folder: str, text: str = "") -> str:
    """Leave a line, so that the test can count how often it ran."""
    return _leave(folder, text)


@function("tests.note_slowly", idempotent=True)
def note_slowly(folder: str) -> str:
    """The same in the time after which a step that waits is asked about again, and more."""
    time.sleep(_WHILE_SECONDS)
    return _leave(folder, "")


@function("tests.wait", idempotent=True)
def wait(folder: str) -> str:
    """Leave a line, and wait until the test opens the gate."""
    _leave(folder, "")
    return _wait(folder)


@function("tests.wait_once")
def wait_once(folder: str) -> str:
    """The same, not to be run twice."""
    _leave(folder, "")
    return _wait(folder)


@function("tests.fail")
def fail(folder: str) -> None:
    """Raise."""
    raise KeyError(f"nothing in {folder}")


@function("tests.large", idempotent=True)
def large(size: int) -> list[int]:
    """More than the store takes."""
    return list(range(size))


@function("tests.total", idempotent=True)
def total(numbers: list[int]) -> int:
    """The sum."""
    return sum(numbers)


def _leave(folder: str, text: str) -> str:
    step = current_step()
    line = {"step": step.step, "attempt": step.attempt, "pid": os.getpid(), "key": step.key}
    with (Path(folder) / "trace.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")
    return text or step.step


def _wait(folder: str) -> str:
    deadline = time.monotonic() + _LONGEST_SECONDS
    while not (Path(folder) / "gate").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the gate was not opened")
        time.sleep(0.02)
    return "passed"
