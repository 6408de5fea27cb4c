"""What a step takes beside its function in the running system: dispatch, a process, commits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from rl.calibration.fit import CLOUD
from rl.live.log import Log, LoggedStep

_LEAST = 5
"""Steps at a place below which nothing is said of it."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """Seconds of a step beside its function, at home and on a machine that has run one before."""

    home: float = 0.0
    cloud: float = 0.0


def overhead_of(log: Log) -> Overhead:
    """The median of a log's steps; zero where it tells of too few.

    A machine's first step is left out, as it has waited for the machine.
    """
    steps = [
        one
        for workflow in log.workflows
        for one in workflow.steps
        if one.kind == "function" and None not in (one.started_at, one.ended_at, one.seconds)
    ]
    away = sorted((one for one in steps if one.place == CLOUD), key=lambda one: one.ended_at or 0.0)
    seen: set[str | None] = set()
    warm: list[LoggedStep] = []
    for one in away:
        if one.node in seen:
            warm.append(one)
        seen.add(one.node)
    home = _median(one for one in steps if one.place != CLOUD)
    return Overhead(home or 0.0, (home or 0.0) if (cloud := _median(warm)) is None else cloud)


def _median(steps: Iterable[LoggedStep]) -> float | None:
    found = [
        max(0.0, (one.ended_at or 0.0) - (one.started_at or 0.0) - (one.seconds or 0.0))
        for one in steps
    ]
    return median(found) if len(found) >= _LEAST else None
