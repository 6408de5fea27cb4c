"""What the workflows and messages of `workflow_proof` do, and the notes that they leave.

Every run of a step and every message that arrives is a line of a file, written outside of all that
is examined. A line is one write to a file opened for appending, so that it is there or not.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from actors.agent import Agent, capability
from actors.functions import current_step, function

DEFINITION: dict[str, Any] = {
    "name": "proof",
    "inputs": {"notes": {"required": True}, "seconds": {"required": True}},
    "steps": {
        "a": {"function": "proof.again", "with": {"values": [1]}},
        "b": {"function": "proof.once", "with": {"values": ["${steps.a}"]}},
        "c": {"function": "proof.again", "with": {"values": ["${steps.a}"]}},
        "d": {"function": "proof.again", "with": {"values": ["${steps.b}", "${steps.c}"]}},
        "e": {"function": "proof.once", "with": {"values": ["${steps.d}"]}},
    },
    "output": "${steps.e}",
}
for _step in DEFINITION["steps"].values():
    _step["with"] |= {"notes": "${inputs.notes}", "seconds": "${inputs.seconds}"}
VALUES = {"a": 2, "b": 3, "c": 3, "d": 7, "e": 8}
"""What each step gives: the sum of what it is given, and one."""
OUTPUT = VALUES["e"]
ONCE = frozenset({"b", "e"})
"""Steps that are not idempotent."""


def write(file: Path | str, **values: Any) -> None:
    """Add a line."""
    line = json.dumps({"at": time.time(), **values}) + "\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read(file: Path) -> list[dict[str, Any]]:
    """All lines."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _work(notes: str, seconds: float, values: list[int]) -> int:
    step = current_step()
    write(notes, workflow=step.workflow_id, step=step.step, attempt=step.attempt)
    time.sleep(seconds)
    return sum(values) + 1


@function("proof.again", idempotent=True)
def again(notes: str, seconds: float, values: list[int]) -> int:
    """May be done twice."""
    return _work(notes, seconds, values)


@function("proof.once")
def once(notes: str, seconds: float, values: list[int]) -> int:
    """May not."""
    return _work(notes, seconds, values)


class Receiver(Agent):
    """Notes what it gets."""

    mailbox = 10_000

    def __init__(self, notes: str) -> None:
        self.notes = notes

    @capability("receive", concurrency=8, idempotent=True)
    async def receive(self, number: int) -> None:
        write(self.notes, number=number)
