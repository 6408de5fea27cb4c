"""How the folder of a checkpoint is called: `step-00000012-<attempt>`.

The attempt is the time at which the save began, in milliseconds since 1970, and chance, both in
hexadecimal: a step that is saved again, or by two processes at once, gets a folder of its own, and
names sort by step and then by time.
"""

from __future__ import annotations

import re
import secrets
import time

_NAME = re.compile(r"step-(\d{8,})-[0-9a-f]{20}")


def new_name(step: int) -> str:
    """For a save that begins now.

    Raises:
        ValueError: the step is negative.
    """
    if step < 0:
        raise ValueError(f"step is {step}; give 0 or more")
    milliseconds = time.time_ns() // 1_000_000
    return f"step-{step:08d}-{milliseconds:012x}{secrets.token_hex(4)}"


def step_of(name: str) -> int | None:
    """Of a checkpoint's folder; None for anything else."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def newest_first(names: list[str]) -> list[str]:
    """Checkpoints among the names, by step and then by the time at which the save began."""
    found = [(step, name) for name in names if (step := step_of(name)) is not None]
    return [name for _, name in sorted(found, reverse=True)]
