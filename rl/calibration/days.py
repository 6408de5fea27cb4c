"""A log as days of the simulator: the same workflows, with durations drawn from a fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ironcliw.errors import DataError
from rl import critical_paths
from rl.calibration.fit import CLOUD, HOME, Fit
from rl.calibration.overhead import Overhead
from rl.draws import Draws, seed_of
from rl.live.beliefs import NO_DEADLINE_SECONDS, PRIORITIES
from rl.live.log import Log, LoggedStep, LoggedWorkflow
from rl.regime import Regime
from rl.work import ZONES, Day, Step, Workflow

DAY_SECONDS = 86_400.0
DRAIN_SECONDS = 36 * 3600.0
Truth = Literal["fit", "log"]
_PRIORITY_NAMES = ("critical", "high", "normal", "low")
_LEAST_SECONDS = 1e-3
_KIND = "function"
_NO_CORES = 1e-3
"""Steps that were not routed wait for others: they hold next to no core of the head, no memory."""


@dataclass(frozen=True, slots=True)
class ReplayDay:
    """A day of a log.

    Attributes:
        day: For the simulator.
        workflows: Of the log, in the order of the day's.
        places: Of each step, by its number: where it ran.
        begin: Unix seconds of its midnight.
    """

    day: Day
    workflows: tuple[LoggedWorkflow, ...]
    places: tuple[str, ...]
    begin: float


def days_of_log(
    log: Log,
    fit: Fit,
    regime: Regime,
    truth: Truth = "fit",
    draw: int = 0,
    overhead: Overhead | None = None,
) -> list[ReplayDay]:
    """The log's finished workflows, by days of 24 hours from the first.

    Args:
        log: Of the running system.
        fit: Of an earlier part of it, so that nothing is predicted from itself.
        regime: For the head, the machines and the costs.
        truth: `fit`: steps take what is drawn from it. `log`: what they took, where it is known.
        draw: Another number draws other durations.
        overhead: Of a routed step beside its function; none without.

    Raises:
        DataError: no workflow of the log has completed.
    """
    done = [one for one in log.workflows if one.finished_at is not None and one.steps]
    if not done:
        raise DataError("no workflow of the decision log has ended; there is nothing to replay")
    begin = min(one.created_at for one in done)
    truly = _Truth(fit, truth, overhead or Overhead())
    groups: dict[int, list[LoggedWorkflow]] = {}
    for one in sorted(done, key=lambda one: one.created_at):
        groups.setdefault(int((one.created_at - begin) / DAY_SECONDS), []).append(one)
    return [
        _day(group, begin + number * DAY_SECONDS, truly, regime, draw)
        for number, group in groups.items()
    ]


@dataclass(frozen=True, slots=True)
class _Truth:
    """Where a step's figures come from; see `days_of_log`."""

    fit: Fit
    truth: Truth
    overhead: Overhead


def _day(
    group: Sequence[LoggedWorkflow], begin: float, truly: _Truth, regime: Regime, draw: int
) -> ReplayDay:
    fit = truly.fit
    workflows, places, number = [], list[str](), 0
    name = f"log/{begin:.0f}/{draw}"
    draws = Draws(seed_of(name))
    for index, one in enumerate(group):
        workflows.append(_workflow(one, index, number, begin, truly, draws))
        places += [step.place for step in one.steps]
        number += len(one.steps)
    day = Day(
        regime=regime,
        name=name,
        workflows=tuple(workflows),
        user_gb=((0.0, regime.home.user_gb[0]),),
        shocks=(),
        outages=((),) * ZONES,
        hazard_per_hour=fit.hazard_per_hour,
        stockout=0.0,
        boot_median=fit.boot.median,
        megabytes_per_second=regime.spot.megabytes_per_second[1],
        history=(round(fit.losses), fit.hours),
        draws=draws,
        until=DAY_SECONDS + DRAIN_SECONDS,
    )
    return ReplayDay(day, tuple(group), tuple(places), begin)


def _workflow(
    logged: LoggedWorkflow, index: int, first: int, begin: float, truly: _Truth, draws: Draws
) -> Workflow:
    count = len(logged.steps)
    children: list[list[int]] = [[] for _ in range(count)]
    for position, step in enumerate(logged.steps):
        for parent in step.needs:
            children[parent].append(position)
    parents = [step.needs for step in logged.steps]
    means = [_believed(step, HOME, truly.fit) for step in logged.steps]
    after = critical_paths.after(children, means)
    luck = draws.stream("steps")
    steps = tuple(
        _step(step, truly, first + position, index, position, tuple(children[position]),
              after[position], luck.normal(first + position))
        for position, step in enumerate(logged.steps)
    )  # fmt: skip
    arrival = logged.created_at - begin
    deadline = arrival + NO_DEADLINE_SECONDS * 6
    if logged.deadline is not None:
        deadline = logged.deadline - begin
    weight = PRIORITIES[_PRIORITY_NAMES[logged.priority]]
    shortest = critical_paths.length(parents, [step.home_seconds for step in steps])
    return Workflow(index, arrival, weight, deadline, steps, max(shortest, _LEAST_SECONDS))


def _step(
    step: LoggedStep,
    truly: _Truth,
    number: int,
    workflow: int,
    index: int,
    children: tuple[int, ...],
    after_mean: float,
    luck: float,
) -> Step:
    fit, truth = truly.fit, truly.truth
    is_routed = step.kind == "function"
    beside = truly.overhead if is_routed else Overhead()
    memory = fit.memory_gb(step.target, step.memory_gb)
    home, cloud = _believed(step, HOME, fit), _believed(step, CLOUD, fit)
    held = step.peak_gb if truth == "log" and step.peak_gb is not None else memory.mean
    sigma, away = _sigmas(step, fit)
    true_home, true_cloud = home * math.exp(sigma * luck), cloud * math.exp(away * luck)
    if truth == "log" and step.seconds is not None:
        ratio = cloud / home
        at_home = step.place == HOME
        true_home = step.seconds if at_home else step.seconds / ratio
        true_cloud = step.seconds * ratio if at_home else step.seconds
    return Step(
        number=number,
        workflow=workflow,
        index=index,
        kind=_KIND,
        parents=step.needs,
        children=children,
        memory_gb=held if is_routed else 0.0,
        memory_mean_gb=memory.mean if is_routed else 0.0,
        memory_p95_gb=memory.p95 if is_routed else 0.0,
        home_seconds=max(true_home, _LEAST_SECONDS) + beside.home,
        cloud_seconds=max(true_cloud, _LEAST_SECONDS) + beside.cloud,
        home_mean=home + beside.home,
        cloud_mean=cloud + beside.cloud,
        duration_sigma=sigma,
        transfer_mb=0.0,
        private=not is_routed or step.wanted in ("private", "local"),
        after_mean=after_mean,
        cores=None if is_routed else _NO_CORES,
    )


def _believed(step: LoggedStep, place: str, fit: Fit) -> float:
    """The median of what a step is predicted to take; of what is not routed, what it took."""
    if step.kind != "function":
        return max(step.seconds or 0.0, _LEAST_SECONDS)
    found = fit.seconds(step.target, place, step.expected_seconds).median
    return found if math.isfinite(found) else _LEAST_SECONDS


def _sigmas(step: LoggedStep, fit: Fit) -> tuple[float, float]:
    """Deviations of that prediction's logarithm (at home, on a machine)."""
    if step.kind != "function":
        return 0.0, 0.0
    found = [fit.seconds(step.target, place, step.expected_seconds) for place in (HOME, CLOUD)]
    return found[0].sigma, found[1].sigma
