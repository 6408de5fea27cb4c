"""Longest paths through a workflow whose steps come after their parents."""

from __future__ import annotations

from collections.abc import Sequence


def starts(parents: Sequence[Sequence[int]], seconds: Sequence[float]) -> list[float]:
    """Earliest start of each step, if nothing ever waits for a place."""
    found: list[float] = []
    for own in parents:
        found.append(max((found[parent] + seconds[parent] for parent in own), default=0.0))
    return found


def length(parents: Sequence[Sequence[int]], seconds: Sequence[float]) -> float:
    """Seconds from the first start to the last end."""
    return max(start + own for start, own in zip(starts(parents, seconds), seconds, strict=True))


def after(children: Sequence[Sequence[int]], seconds: Sequence[float]) -> list[float]:
    """Seconds from each step's end to the last end."""
    found = [0.0] * len(seconds)
    for step in reversed(range(len(seconds))):
        found[step] = max((seconds[child] + found[child] for child in children[step]), default=0.0)
    return found
