"""Compares policies on the same days and says how sure the comparison is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rl.baselines import RULES
from rl.bounds import lower_bound
from rl.clairvoyant import ALL_LEVERS, Plan, Rest, run_plan, search
from rl.greedy import Greedy, GreedyParameters
from rl.outcome import Outcome
from rl.parameters import load_parameters
from rl.regime import Regime
from rl.simulator import Policy, simulate
from rl.statistics import paired_ratio
from rl.traces import Split
from rl.uniform_progress import UniformProgress
from rl.work import Day
from rl.workload import make_day

BASE = "tuned greedy"
Makers = Mapping[str, Callable[[], Policy]]


def baselines(tuned: GreedyParameters | None = None) -> dict[str, Callable[[], Policy]]:
    """Every baseline by its name; a maker each, as some remember the day's steps.

    Args:
        tuned: Parameters of the tuned greedy policy; the shipped ones where it is left out.
    """
    parameters = tuned or load_parameters()
    makers: dict[str, Callable[[], Policy]] = {rule.name: rule for rule in RULES}
    makers["greedy, first come"] = lambda: Greedy(name="greedy, first come", order="fifo")
    makers["greedy"] = Greedy
    makers[BASE] = lambda: Greedy(parameters, name=BASE)
    makers["uniform progress"] = lambda: UniformProgress(parameters)
    return makers


def days_of(
    regime: Regime, seed: int, split: Split, count: int, data: Path | None = None
) -> list[Day]:
    """The first days of a set."""
    return [make_day(regime, seed, split, number, data=data) for number in range(count)]


def evaluate(
    days: Sequence[Day],
    makers: Makers,
    *,
    base: str = BASE,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Outcomes of each policy and its cost by the base's, paired by day.

    Args:
        days: The same for all.
        makers: Of a new policy for a day, by name; the base is among them.
        base: With which all others are compared.
        report: Told of each policy that has run, in words.
    """
    found: dict[str, Any] = {}
    runs: dict[str, tuple[list[Outcome], float]] = {}
    for name, maker in makers.items():
        runs[name] = _run(days, maker)
        report(f"{name}: {len(days)} days in {runs[name][1]:.0f} s")
    base_costs = _costs(runs[base][0])
    for name, (outcomes, seconds) in runs.items():
        costs = _costs(outcomes)
        found[name] = {
            "means": _means(outcomes),
            "ratio": asdict(paired_ratio(costs, base_costs)),
            "breaches": sum(one.breaches for one in outcomes),
            "out_of_memory": sum(one.out_of_memory for one in outcomes),
            "decisions_per_second": sum(one.decisions for one in outcomes) / max(seconds, 1e-9),
            "costs": [round(cost, 6) for cost in costs],
        }
    return found


def clairvoyance(
    days: Sequence[Day],
    tuned: GreedyParameters,
    evaluations: int,
    seed: int = 0,
    levers: frozenset[str] = ALL_LEVERS,
    starts: Sequence[Rest] = (),
) -> dict[str, Any]:
    """What a search that knows the days reaches, and what nothing can go below.

    Args:
        days: Few: each is simulated `evaluations` times.
        tuned: Parameters to compare with, and one to begin with.
        evaluations: Of the search, a day.
        seed: Of the search.
        levers: That it may move.
        starts: Other policies to begin with: the best of all on each day is.
    """
    plain = [simulate(day, Greedy(tuned)).cost for day in days]
    reached = [
        search(day, (tuned, *starts), evaluations=evaluations, seed=seed, levers=levers)[1].cost
        for day in days
    ]
    truth = [run_plan(day, Plan(tuned)).cost for day in days]
    bounds = [lower_bound(day) for day in days]
    return {
        "days": len(days),
        "evaluations": evaluations,
        "levers": sorted(levers),
        "starts": 1 + len(starts),
        "truth_ratio": asdict(paired_ratio(truth, plain)),
        "ratio": asdict(paired_ratio(reached, plain)),
        "bound_ratio": asdict(paired_ratio(bounds, plain)),
        "costs": [round(cost, 6) for cost in reached],
        "bounds": [round(cost, 6) for cost in bounds],
    }


def table(found: Mapping[str, Any]) -> str:
    """For people: a line for each policy."""
    head = f"{'policy':24} {'USD a day':>10} {'ratio':>6} {'95 %':>14} {'met':>6} {'machines':>9}"
    lines = [head]
    for name, one in found.items():
        means, ratio = one["means"], one["ratio"]
        interval = f"[{ratio['low']:.2f}, {ratio['high']:.2f}]"
        lines.append(
            f"{name:24} {means['cost']:10.3f} {ratio['mean']:6.3f} {interval:>14} "
            f"{means['met']:6.3f} {means['dollars']:9.3f}"
        )
    return "\n".join(lines)


def _run(days: Sequence[Day], maker: Callable[[], Policy]) -> tuple[list[Outcome], float]:
    start = time.perf_counter()
    outcomes = [simulate(day, maker()) for day in days]
    return outcomes, time.perf_counter() - start


def _costs(outcomes: Sequence[Outcome]) -> list[float]:
    return [one.cost for one in outcomes]


def _means(outcomes: Sequence[Outcome]) -> dict[str, float]:
    rows = [one.as_dict() for one in outcomes]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
