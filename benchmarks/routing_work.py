"""What the workflows of `routing_validation` do, where they go, and when they come.

Imported on the head and on machines, so it needs the standard library and `actors` alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.functions import function
from actors.routing import LOCAL, SPOT, Choice, Option

LONG_SECONDS = 15.0
HEAD_CPUS, SHORT_CPUS, LONG_CPUS = 4, 1.9, 0.25
AT_ONCE = 2
"""Short steps at home: what HEAD_CPUS has room for, beside what serves HTTP."""


@function("routing.short", idempotent=True, cpus=SHORT_CPUS)
def short(seconds: float, work: float = 0.0) -> float:
    """Sleep, then compute for some seconds of a processor."""
    time.sleep(seconds)
    return compute(work)


@function("routing.long", idempotent=True, cpus=LONG_CPUS)
def long(seconds: float, work: float = 0.0) -> float:
    """The same, of which many fit on a machine."""
    time.sleep(seconds)
    return compute(work)


def compute(seconds: float) -> float:
    """Use a processor for so long; returns what it used."""
    begun = time.process_time()
    total = 0
    while time.process_time() - begun < seconds:
        total += sum(range(2000))
    return time.process_time() - begun


class ByLength:
    """A RouterPolicy: what is expected to take longer than LONG_SECONDS goes to the cloud."""

    name = "by length"

    def decide(
        self, features: Mapping[str, float], options: Sequence[Option], mask: Sequence[bool]
    ) -> Choice:
        """See `actors.routing.RouterPolicy`."""
        wanted = SPOT if features["expected_seconds"] > LONG_SECONDS else LOCAL
        for index, option in enumerate(options):
            if mask[index] and option.name == wanted:
                return Choice(index, 1.0, (f"{features['expected_seconds']:g} s",))
        return Choice(list(mask).index(True), 1.0, ("the only place",))


@dataclass(frozen=True, slots=True)
class Piece:
    """A step: when it is expected to end after its start, what it computes, what it needs."""

    name: str
    seconds: float
    work: float = 0.0
    after: tuple[str, ...] = ()

    @property
    def expected(self) -> float:
        """Seconds on a free processor."""
        return self.seconds + self.work

    @property
    def is_long(self) -> bool:
        """Whether it goes to the cloud."""
        return self.expected > LONG_SECONDS


@dataclass(frozen=True, slots=True)
class Script:
    """A workflow: its steps, and when it is submitted, seconds after the beginning."""

    at: float
    pieces: tuple[Piece, ...]

    def definition(self) -> dict[str, Any]:
        """As `POST /v1/workflows` takes it."""
        return {"name": "routing", "steps": {one.name: _step(one) for one in self.pieces}}

    @property
    def critical(self) -> float:
        """Seconds on the longest path."""
        ends: dict[str, float] = {}
        for one in self.pieces:
            ends[one.name] = one.expected + max((ends[name] for name in one.after), default=0.0)
        return max(ends.values())


def scripts(seed: int, seconds: float, gap: float) -> list[Script]:
    """Workflows of three shapes, with exponential gaps.

    Args:
        seed: Of all draws.
        seconds: Within which they come.
        gap: Mean seconds between two.
    """
    draw = random.Random(seed)
    found, now = [], 1.0
    shapes: list[Callable[[random.Random], tuple[Piece, ...]]] = []
    while now < seconds:
        # each three have all shapes, so that no part of a run is without one
        shapes = shapes or draw.sample((_answer, _batch, _report), 3)
        found.append(Script(now, shapes.pop()(draw)))
        now += draw.expovariate(1.0 / gap)
    return found


def _answer(draw: random.Random) -> tuple[Piece, ...]:
    return (Piece("look", draw.uniform(1, 3)), Piece("say", draw.uniform(1, 4), 0.2, ("look",)))


def _batch(draw: random.Random) -> tuple[Piece, ...]:
    parts = tuple(
        Piece(f"part{number}", draw.uniform(2, 5), 0.1, ("split",)) for number in range(3)
    )
    names = tuple(one.name for one in parts)
    return (Piece("split", 1.0), *parts, Piece("join", 1.0, 0.0, names))


def _report(draw: random.Random) -> tuple[Piece, ...]:
    return (
        Piece("gather", draw.uniform(1, 2)),
        Piece("crunch", draw.uniform(18, 40), 0.3, ("gather",)),
        Piece("tell", 1.0, 0.0, ("crunch",)),
    )


def _step(one: Piece) -> dict[str, Any]:
    return {
        "function": "routing.long" if one.is_long else "routing.short",
        "with": {"seconds": one.seconds, "work": one.work},
        "expected_seconds": one.expected,
        "after": list(one.after),
        "place": "any",
    }
