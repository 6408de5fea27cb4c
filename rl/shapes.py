"""Workflows as their authors write them: which steps, in which order, how large.

The figures are ours; nothing here was fitted to a log of this project. `rl/traces.py` brings what
is known from real traces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rl.draws import Draws
from rl.traces import Traces

LONGEST_SECONDS = 5400.0


@dataclass(frozen=True, slots=True)
class Draft:
    """A step before it is placed in a day: what it truly is, at home."""

    kind: str
    parents: tuple[int, ...]
    memory_gb: float
    seconds: float
    transfer_mb: float = 1.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A workflow's steps, each after its parents, and what it is worth."""

    steps: tuple[Draft, ...]
    priority: float
    private: bool = False


def _length(draws: Draws, median: float, sigma: float, key: int) -> float:
    return min(max(draws.log_normal(median, sigma, key), 0.2), LONGEST_SECONDS)


def _answer(draws: Draws, traces: Traces | None) -> Shape:
    del traces
    steps = (
        Draft("decide", (), 0.4, _length(draws, 0.8, 0.5, 1)),
        Draft("embed", (0,), 1.2, _length(draws, 6.0, 0.6, 2)),
        Draft("generate", (1,), draws.between(3.0, 6.5, 3), _length(draws, 35.0, 0.8, 4), 20.0),
    )
    return Shape(steps, 1.5, private=draws.uniform(5) < 0.15)


def _ingest(draws: Draws, traces: Traces | None) -> Shape:
    del traces
    parts = draws.integer(3, 8, 1)
    size = draws.log_normal(120.0, 0.7, 2)
    fetch = Draft("function", (), 0.6, _length(draws, 20.0, 0.6, 3))
    embeds = tuple(
        Draft("embed", (0,), 1.5, _length(draws, size, 0.3, 10 + part), 60.0)
        for part in range(parts)
    )
    index = Draft(
        "function",
        tuple(range(1, parts + 1)),
        draws.between(1.0, 4.0, 5),
        _length(draws, 15.0, 0.5, 6),
    )
    return Shape((fetch, *embeds, index), 0.7)


def _train(draws: Draws, traces: Traces | None) -> Shape:
    del traces
    memory = draws.between(4.0, 18.0, 1)
    steps = (
        Draft("function", (), draws.between(1.0, 6.0, 2), _length(draws, 60.0, 0.7, 3), 100.0),
        Draft("train", (0,), memory, _length(draws, 700.0, 0.8, 4), draws.between(50, 400, 5)),
        Draft("function", (1,), draws.between(1.0, 4.0, 6), _length(draws, 60.0, 0.5, 7), 50.0),
    )
    return Shape(steps, 0.7)


def _analysis(draws: Draws, traces: Traces | None) -> Shape:
    del traces
    steps = (
        Draft(
            "function",
            (),
            draws.between(3.0, 25.0, 1),
            _length(draws, 200.0, 0.9, 2),
            draws.between(10, 400, 3),
        ),
        Draft("function", (0,), draws.between(0.5, 3.0, 4), _length(draws, 30.0, 0.5, 5)),
    )
    return Shape(steps, 1.0)


def _drafts(draws: Draws, traces: Traces | None) -> Shape:
    """Long texts; their lengths are those of a real log of conversations where there is one."""
    count = draws.integer(1, 4, 1)
    memory = (3.5, 5.5, 9.0, 12.0)[draws.integer(0, 3, 2)]
    steps = [Draft("decide", (), 0.4, _length(draws, 0.8, 0.5, 3))]
    for part in range(count):
        if traces is None:
            seconds = _length(draws, 260.0, 0.7, 20 + part)
        else:
            seconds = min(12 * traces.answer_seconds(draws.uniform(20 + part)), LONGEST_SECONDS)
        steps.append(Draft("generate", (0,), memory, seconds, 30.0))
    steps.append(Draft("function", tuple(range(1, count + 1)), 0.5, _length(draws, 5.0, 0.4, 5)))
    return Shape(tuple(steps), 1.0)


def _trace(draws: Draws, traces: Traces | None) -> Shape:
    """A part of a scientific workflow of WfInstances: its real shape and run times."""
    assert traces is not None  # make_day loads them for a regime that needs them
    graph = traces.graph(draws.uniform(1))
    steps = tuple(
        Draft(
            "function",
            parents,
            min(draws.log_normal(1.5, 0.9, 2, number), 20.0),
            min(max(seconds, 0.5), LONGEST_SECONDS),
            20.0,
        )
        for number, (parents, seconds) in enumerate(graph)
    )
    return Shape(steps, 0.7)


SHAPES: dict[str, Callable[[Draws, Traces | None], Shape]] = {
    "answer": _answer,
    "ingest": _ingest,
    "train": _train,
    "analysis": _analysis,
    "drafts": _drafts,
    "trace": _trace,
}
