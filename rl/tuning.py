"""Searches the parameters of a policy on days of training.

CMA-ES on the parameters' logarithms. All candidates of a generation, and the base that they are
compared with, see the same days, and each generation sees fresh ones, so that no day is learned by
heart. What is minimised is what is judged in the end: the days' whole cost by the base's, and a
penalty where more is spent on machines than may be. The answer is the centre of the search, not
the luckiest of its points.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from typing import TypeVar

import numpy as np

from rl.cma import Array, Cma
from rl.greedy import GreedyParameters
from rl.parameters import Parameters, policy_of
from rl.queue_parameters import QueueParameters
from rl.simulator import simulate
from rl.work import Day

Found = TypeVar("Found", GreedyParameters, QueueParameters)
Source = Callable[[int], Day]
"""A day by its number; may be sent to another process."""
Sums = tuple[float, float]
"""Over days: USD of the objective, and of machines."""

MOST_DOLLARS = 1.05
"""Of the base's, that may be spent on machines."""
_PENALTY = 2.0  # a percent above it is as bad as two percent of the objective
_WIDE = frozenset(
    ("order_size", "beside_weight", "ahead", "crowding_cloud", "ration", "tail_shared", "stock",
     "pace", "rent_memory", "rent_cores", "coming", "idle_session", "look_ahead")
)  # fmt: skip
_WIDER = 3.0  # begin nearly off, so the search looks at other magnitudes


@dataclass(frozen=True, slots=True)
class Search:
    """How to search.

    Attributes:
        generations: Of trying and learning.
        population: Candidates a generation.
        days: Fresh ones a generation, of all sources together, on which each candidate is tried.
        spread: Deviation of a parameter's logarithm at the start.
        seed: Of the candidates.
        processes: That work at once; with 1 it is done in this one.
        first: Number of the first day: of another, so that a search may go on.
    """

    generations: int = 70
    population: int = 14
    days: int = 96
    spread: float = 0.25
    seed: int = 0
    processes: int = 1
    first: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Of a search.

    Attributes:
        generation: From 0; the number of generations after the last.
        centre: Cost by the base's, of the centre of the search on days that it has not seen.
        best: Of the best candidate on the same days.
        dollars: Of the centre on machines, by the base's.
    """

    generation: int
    centre: float
    best: float
    dollars: float


def tune(
    start: Found,
    base: Parameters,
    sources: Sequence[Source],
    search: Search | None = None,
    report: Callable[[Progress, Found], None] | None = None,
) -> Found:
    """The best parameters found; the same for the same days, seed and search.

    Args:
        start: Where the search begins; says what policy is tuned.
        base: Whose cost is 1.
        sources: Of days of training, used in equal parts.
        search: How.
        report: Told after each generation, with the centre until then.
    """
    plan = search or Search()
    cma = Cma(_coordinates(start), plan.spread, plan.population, plan.seed)
    with _workers(plan.processes) as run:
        for generation in range(plan.generations + 1):
            points = cma.ask()
            centre = _parameters(start, cma.mean)
            is_last = generation == plan.generations
            tried: list[Found] = []
            if not is_last:
                tried = [_parameters(start, one) for one in points]
            parts = _parts(sources, plan, generation)
            sums = run(parts, [base, centre, *tried])
            scores = [score(one, sums[0]) for one in sums[1:]]
            if report is not None:
                dollars = sums[1][1] / max(sums[0][1], 1e-9)
                report(Progress(generation, scores[0], min(scores), dollars), centre)
            if not is_last:
                cma.tell(points, np.array(scores[1:]))
    return _parameters(start, cma.mean)


def score(own: Sums, base: Sums) -> float:
    """Cost by the base's, and the penalty for machines."""
    dollars = own[1] / max(base[1], 1e-9)
    return own[0] / max(base[0], 1e-9) + _PENALTY * max(0.0, dollars - MOST_DOLLARS)


Part = tuple[Source, int, int]
_Runner = Callable[[Sequence[Part], Sequence[Parameters]], list[Sums]]


def sums_of(part: Part, candidates: Sequence[Parameters]) -> list[Sums]:
    """What some days come to with each candidate.

    Args:
        part: (source, number of the first day, days).
        candidates: Each meets the same days.
    """
    source, first, count = part
    found = np.zeros((len(candidates), 2))
    for number in range(first, first + count):
        day = source(number)
        for row, candidate in enumerate(candidates):
            outcome = simulate(day, policy_of(candidate))
            found[row] += (outcome.cost, outcome.dollars)
    return [(float(cost), float(dollars)) for cost, dollars in found]


def _parts(sources: Sequence[Source], plan: Search, generation: int) -> list[Part]:
    """Days of a generation, cut so that some processes have something to do."""
    each = max(1, plan.days // len(sources))
    size = each if plan.processes == 1 else max(1, each // (2 * plan.processes))
    begin = plan.first + generation * each
    return [
        (source, begin + offset, min(size, each - offset))
        for source in sources
        for offset in range(0, each, size)
    ]


@contextmanager
def _workers(processes: int) -> Iterator[_Runner]:
    if processes == 1:
        yield lambda parts, tried: _added([sums_of(part, tried) for part in parts])
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield lambda parts, tried: _added(pool.map(sums_of, parts, [tried] * len(parts)))


def _added(parts: Sequence[list[Sums]] | Iterator[list[Sums]]) -> list[Sums]:
    """In the order of the parts, so that one process and many give the same sums."""
    total = np.array([list(part) for part in parts]).sum(axis=0)
    return [(float(cost), float(dollars)) for cost, dollars in total]


def _scales(parameters: Parameters) -> Array:
    return np.array([_WIDER if one.name in _WIDE else 1.0 for one in fields(parameters)])


def _coordinates(parameters: Parameters) -> Array:
    found: Array = np.log(np.array(astuple(parameters))) / _scales(parameters)
    return found


def _parameters(like: Found, coordinates: Array) -> Found:
    logarithms = np.clip(coordinates * _scales(like), -30.0, 30.0)
    values = [math.exp(value) for value in logarithms]
    return type(like)(*values)
