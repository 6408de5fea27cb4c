"""Searches the greedy policy's parameters on days of training.

The cross-entropy method (Rubinstein 1999): draw parameters from a normal distribution of their
logarithms, keep the best fifth, fit the distribution to them, again. All candidates of a round see
the same days, and each day's cost is divided by the default policy's, so that a few overloaded days
do not decide alone. It is 30 lines; a library of CMA-ES would save none of them and add a
dependency for twelve parameters that are nearly independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from rl.greedy import Greedy, GreedyParameters
from rl.simulator import simulate
from rl.work import Day

_NAMES = tuple(field.name for field in fields(GreedyParameters))


@dataclass(frozen=True, slots=True)
class Search:
    """How to search.

    Attributes:
        rounds: Of drawing and fitting.
        candidates: Drawn a round.
        elite: Kept of them.
        days_a_round: On which each candidate is tried.
        spread: Deviation of a parameter's logarithm at the start.
        seed: Of the candidates and the choice of days.
    """

    rounds: int = 12
    candidates: int = 20
    elite: int = 5
    days_a_round: int = 24
    spread: float = 0.6
    seed: int = 0


def tune(
    days: Sequence[Day],
    search: Search | None = None,
    report: Callable[[int, float], None] | None = None,
) -> GreedyParameters:
    """The best parameters found; the same for the same days and seed.

    Args:
        days: Of training.
        search: How.
        report: Called with each round's number and the mean ratio of its centre to the default.
    """
    plan = search or Search()
    random = np.random.default_rng(plan.seed)
    start = np.log(np.array(astuple(GreedyParameters())))
    centre, spread = start.copy(), np.full(len(start), plan.spread)
    base: dict[int, float] = {}
    for number in range(plan.rounds):
        count = min(plan.days_a_round, len(days))
        chosen = [int(one) for one in random.choice(len(days), count, replace=False)]
        for one in chosen:
            if one not in base:
                base[one] = max(_cost(days[one], start), 0.05)
        drawn = centre + spread * random.standard_normal((plan.candidates, len(centre)))
        drawn[0] = centre
        scores = np.array(
            [np.mean([_cost(days[one], values) / base[one] for one in chosen]) for values in drawn]
        )
        best = drawn[np.argsort(scores, kind="stable")[: plan.elite]]
        centre = 0.3 * centre + 0.7 * best.mean(axis=0)
        spread = 0.3 * spread + 0.7 * best.std(axis=0) + 0.02
        if report is not None:
            report(number, float(scores[0]))
    return _parameters(centre)


def _parameters(logarithms: Sequence[float]) -> GreedyParameters:
    return GreedyParameters(
        **{name: math.exp(value) for name, value in zip(_NAMES, logarithms, strict=True)}
    )


def _cost(day: Day, logarithms: Sequence[float]) -> float:
    return simulate(day, Greedy(_parameters(logarithms))).cost
