"""Whether the simulator, with a fit, does what the running system did: the gate of promotion.

The log's workflows are simulated with each step sent where it went. Mean and upper flow times, the
share of deadlines kept, dollars and the objective must come within a tenth of the log's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from rl.baselines import idle_for, least_loaded
from rl.calibration.days import DAY_SECONDS, ReplayDay
from rl.calibration.fit import CLOUD
from rl.live.log import Log
from rl.live.views import PRIORITIES
from rl.outcome import Outcome
from rl.simulator import Order, Policy, simulate
from rl.statistics import paired_ratio
from rl.view import BUY, FIRST_MACHINE, HOME, MACHINES, WAIT, View

TOLERANCE = 0.10
_PRIORITY_NAMES = ("critical", "high", "normal", "low")
_SMALL_SECONDS = 1.0
_SMALL_DOLLARS = 0.005
_SMALL_SHARE = 0.02


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


class AsLogged:
    """Sends each step where the log says it ran.

    Args:
        places: By the step's number.
        idle_seconds: After which a machine without work is given back.
    """

    name = "as logged"
    order: Order = "fifo"

    def __init__(self, places: Sequence[str], idle_seconds: float) -> None:
        self._places = places
        self._idle_seconds = idle_seconds

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        """See `rl.simulator.Policy`."""
        if view.step is None:
            return idle_for(view, mask, self._idle_seconds)
        if self._places[view.step.number] != CLOUD:
            wanted = [HOME, WAIT]
        else:
            there = [FIRST_MACHINE + slot for slot in range(MACHINES)]
            wanted = [one for one in (least_loaded(view, mask), *there, BUY, WAIT) if one != HOME]
            if any(mask[one] for one in there):
                wanted = [one for one in wanted if one not in (BUY, WAIT)]
        allowed = [action for action in (*wanted, HOME, WAIT) if mask[action]]
        return allowed[0] if allowed else list(mask).index(True)


def replay(days: Sequence[ReplayDay], log: Log, idle_seconds: float = 900.0) -> Replay:
    """Simulate a log and compare.

    Args:
        days: Of the log.
        log: The same, for its machines.
        idle_seconds: After which the system gives machines back.
    """
    outcomes = [simulate(one.day, AsLogged(one.places, idle_seconds)) for one in days]
    return Replay(_figures(days, log, outcomes), sum(len(one.workflows) for one in days))


def averaged(draws: Sequence[Replay]) -> Replay:
    """The mean of replays of the same log with different draws of durations; at least one."""
    first = draws[0]
    figures = {
        name: replace(one, simulated=fmean(each.figures[name].simulated for each in draws))
        for name, one in first.figures.items()
    }
    return Replay(figures, first.workflows)


def compare(
    days: Sequence[ReplayDay], policy: Callable[[], Policy], base: Callable[[], Policy]
) -> tuple[float, float]:
    """(USD a day that a policy saves against a base on the log's days, ratio of their costs)."""
    own = [max(simulate(one.day, policy()).cost, 1e-9) for one in days]
    other = [max(simulate(one.day, base()).cost, 1e-9) for one in days]
    return float(np.mean(other) - np.mean(own)), paired_ratio(own, other, resamples=200).mean


def _figures(days: Sequence[ReplayDay], log: Log, outcomes: Sequence[Outcome]) -> dict[str, Figure]:
    logged = [workflow for one in days for workflow in one.workflows]
    flows = np.array([(one.finished_at or 0.0) - one.created_at for one in logged])
    counts = np.array([one.workflows for one in outcomes], dtype=float)
    # of the simulator each day's own figures are known, weighed by its workflows
    costs = days[0].day.regime.costs
    dollars = _dollars(days, log)
    waiting = sum(
        costs.hour_of_priority * _weight(one.priority) * flow / 3600.0
        for one, flow in zip(logged, flows, strict=True)
    )
    missed = [one for one in logged if (one.finished_at or 0.0) > (one.deadline or np.inf)]
    misses = costs.miss * sum(_weight(one.priority) for one in missed)
    total = counts.sum()
    simulated_waiting = sum(one.waiting for one in outcomes)
    met = 1.0 - len(missed) / len(logged)
    simulated_met = float(sum(one.met * count for one, count in zip(outcomes, counts, strict=True)))
    spent = sum(one.dollars for one in outcomes)
    logged_cost = dollars + waiting + misses
    return {
        "flow time times priority, hours": _figure(
            waiting / costs.hour_of_priority,
            simulated_waiting / costs.hour_of_priority,
            _SMALL_SECONDS * len(logged) / 3600.0,
        ),
        "median flow time, seconds": _figure(
            float(np.median(flows)),
            float(sum(one.flow_p50 * count for one, count in zip(outcomes, counts, strict=True)))
            / total,
            _SMALL_SECONDS,
        ),
        "deadlines kept, share": _figure(met, simulated_met / total, _SMALL_SHARE, 0.0),
        "machines, USD": _figure(dollars, spent, _SMALL_DOLLARS),
        "objective, USD": _figure(
            logged_cost, spent + simulated_waiting + sum(one.misses for one in outcomes),
            _SMALL_DOLLARS,
        ),
    }  # fmt: skip


def _figure(logged: float, simulated: float, least: float, share: float = TOLERANCE) -> Figure:
    """Allowed is a tenth of the log's, and what does not matter in any case."""
    return Figure(float(logged), float(simulated), max(share * abs(float(logged)), least))


def _weight(priority: int) -> float:
    return PRIORITIES[_PRIORITY_NAMES[priority]]


def _dollars(days: Sequence[ReplayDay], log: Log) -> float:
    """For machines, from the first day's beginning to a day after the last."""
    first, last = days[0].begin, days[-1].begin + 2 * DAY_SECONDS
    seconds = sum(
        max(0.0, min(end, last) - max(begin, first)) for begin, end in log.fleet.intervals
    )
    return seconds / 3600.0 * log.fleet.price_per_hour
