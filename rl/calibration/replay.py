"""Whether the simulator, with a fit, does what the running system did: the gate of promotion.

The log's workflows are simulated with each step sent where it went. Flow times, the share of
deadlines kept, dollars and the objective must come within a tenth of the log's. Time for which a
workflow was paused is nobody's, and machines that no routed step ran on are not routing's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from rl.calibration.as_live import AsLive, AsLogged, Lived, lived
from rl.calibration.days import DAY_SECONDS, ReplayDay
from rl.calibration.fit import CLOUD
from rl.live.beliefs import PRIORITIES
from rl.live.log import Log, LoggedWorkflow
from rl.simulator import Policy
from rl.statistics import Ratio, paired_ratio

TOLERANCE = 0.10
LEAST_DAYS = 5
"""Of which a ratio of costs has an interval."""
_PRIORITY_NAMES = ("critical", "high", "normal", "low")
_SMALL_SECONDS = 1.0
_SMALL_DOLLARS = 0.005
_SMALL_SHARE = 0.02
_CLOCKS = 60.0
"""Seconds by which the clocks of a machine's bill and of its steps may differ."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the log and of its simulation.

    Attributes:
        logged: In the log.
        simulated: In the simulator.
        allowed: How far apart they may be.
    """

    logged: float
    simulated: float
    allowed: float

    @property
    def fits(self) -> bool:
        """Whether they are near enough."""
        return abs(self.simulated - self.logged) <= self.allowed


@dataclass(frozen=True, slots=True)
class Replay:
    """The comparison, by name of the figure."""

    figures: Mapping[str, Figure]
    workflows: int

    @property
    def misfit(self) -> str:
        """What does not fit, in words; empty: all does."""
        wrong = [
            f"{name} {one.simulated:.4g} in the simulator and {one.logged:.4g} in the log"
            for name, one in self.figures.items()
            if not one.fits
        ]
        return "; ".join(wrong)


def replay(days: Sequence[ReplayDay], log: Log, idle_seconds: float = 900.0) -> Replay:
    """Simulate a log and compare.

    Args:
        days: Of the log.
        log: The same, for its machines.
        idle_seconds: After which the system gives machines back.
    """
    runs = [lived(one.day, AsLogged(one.places, idle_seconds), idle_seconds) for one in days]
    return Replay(_figures(days, log, runs), sum(len(one.workflows) for one in days))


def averaged(draws: Sequence[Replay]) -> Replay:
    """The mean of replays of the same log with different draws of durations; at least one."""
    first = draws[0]
    figures = {
        name: replace(one, simulated=fmean(each.figures[name].simulated for each in draws))
        for name, one in first.figures.items()
    }
    return Replay(figures, first.workflows)


def saving(
    days: Sequence[ReplayDay],
    policy: Callable[[], Policy],
    base: Callable[[], Policy],
    idle_seconds: float,
) -> float:
    """USD a day that a policy saves against a base on the log's days, both as in the system."""
    own, other = (
        [lived(one.day, AsLive(make(), idle_seconds), idle_seconds).cost for one in days]
        for make in (policy, base)
    )
    return float(np.mean(other) - np.mean(own))


def dearness(
    days: Sequence[ReplayDay], base: Callable[[], Policy], idle_seconds: float
) -> Ratio | None:
    """What was done by what a base would have done; None on fewer than `LEAST_DAYS` days.

    Both are simulated, so that what the simulator gets wrong is wrong in both.

    Args:
        days: With the log's own durations, so that what was done met the luck that it met.
        base: Makes the policy to compare with.
        idle_seconds: After which the system gives machines back.
    """
    if len(days) < LEAST_DAYS:
        return None
    done = [AsLogged(one.places, idle_seconds) for one in days]
    own = [lived(one.day, each, idle_seconds).cost for one, each in zip(days, done, strict=True)]
    other = [lived(one.day, AsLive(base(), idle_seconds), idle_seconds).cost for one in days]
    return paired_ratio(own, other, resamples=2000)


def _figures(days: Sequence[ReplayDay], log: Log, runs: Sequence[Lived]) -> dict[str, Figure]:
    logged = [workflow for one in days for workflow in one.workflows]
    flows = np.array([_ended(one) - one.created_at for one in logged])
    counts = np.array([one.outcome.workflows for one in runs], dtype=float)
    costs = days[0].day.regime.costs
    dollars = _dollars(days, log)
    waiting = sum(
        costs.hour_of_priority * _weight(one.priority) * flow / 3600.0
        for one, flow in zip(logged, flows, strict=True)
    )
    missed = [one for one in logged if _ended(one) > (one.deadline or np.inf)]
    misses = costs.miss * sum(_weight(one.priority) for one in missed)
    simulated_waiting = sum(one.outcome.waiting for one in runs)
    met = 1.0 - len(missed) / len(logged)
    simulated_met = float(np.average([one.outcome.met for one in runs], weights=counts))
    spent = sum(one.dollars for one in runs)
    logged_cost = dollars + waiting + misses
    return {
        "flow time times priority, hours": _figure(
            waiting / costs.hour_of_priority,
            simulated_waiting / costs.hour_of_priority,
            _SMALL_SECONDS * len(logged) / 3600.0,
        ),
        "median flow time, seconds": _figure(
            float(np.median(flows)),
            float(np.median(np.concatenate([one.flows for one in runs]))),
            _SMALL_SECONDS,
        ),
        "deadlines kept, share": _figure(met, simulated_met, _SMALL_SHARE, 0.0),
        "machines, USD": _figure(dollars, spent, _SMALL_DOLLARS),
        "objective, USD": _figure(
            logged_cost,
            spent + simulated_waiting + sum(one.outcome.misses for one in runs),
            _SMALL_DOLLARS,
        ),
    }


def _ended(workflow: LoggedWorkflow) -> float:
    """When it would have ended if nobody had paused it."""
    return (workflow.finished_at or 0.0) - workflow.paused_seconds


def _figure(logged: float, simulated: float, least: float, share: float = TOLERANCE) -> Figure:
    """Allowed is a tenth of the log's, and what does not matter in any case."""
    return Figure(float(logged), float(simulated), max(share * abs(float(logged)), least))


def _weight(priority: int) -> float:
    return PRIORITIES[_PRIORITY_NAMES[priority]]


def _dollars(days: Sequence[ReplayDay], log: Log) -> float:
    """For machines that ran routed steps, from the first day to a day after the last."""
    first, last = days[0].begin, days[-1].begin + 2 * DAY_SECONDS
    runs = [
        (step.ended_at - step.seconds, step.ended_at)
        for workflow in log.workflows
        for step in workflow.steps
        if step.kind == "function" and step.place == CLOUD
        and step.ended_at is not None and step.seconds is not None
    ]  # fmt: skip
    seconds = sum(
        max(0.0, min(end, last) - max(begin, first))
        for begin, end in log.fleet.intervals
        if any(begin <= start + _CLOCKS and stop <= end + _CLOCKS for start, stop in runs)
    )
    return seconds / 3600.0 * log.fleet.price_per_hour
