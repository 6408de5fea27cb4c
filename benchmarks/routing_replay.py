"""A scripted run of the real system, simulated: the same workflows, times fitted to another run.

What is fitted comes from other parts of the run: what a step needs beside its function at home and
on a machine, and how long one takes to start. The rest is then simulated with the same policy, and
its mean flow time, deadlines and machine hours are compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness import BenchmarkError
from benchmarks.routing_work import AT_ONCE, Script
from rl.draws import Draws
from rl.fleet import IDLE_SECONDS
from rl.guardrails import RESERVE_GB
from rl.live.log import Log, LoggedWorkflow
from rl.regime import Regime, regime_of
from rl.simulator import Order, Simulation
from rl.view import BUY, FIRST_MACHINE, FIRST_STOP, HOME, KEEP, MACHINES, WAIT, View
from rl.work import KINDS, Day, Step, Workflow

HOUR = 3600.0
SLACK, GRACE = 1.6, 10.0
"""A deadline is so many times the longest path, and so many seconds more."""
_KIND = "function"
_HOME_GB, _STEP_GB = 16.0, 1.0
_USER_GB = _HOME_GB - RESERVE_GB - (AT_ONCE + 0.5) * _STEP_GB  # what is left has room for AT_ONCE


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the simulator is told of the real system; seconds.

    Attributes:
        at_home: Of a step at home beside its function: dispatch, a process, commits.
        on_machine: The same on a machine that has run a step before.
        start: From the order of a machine to the first step's function, beside `on_machine`.
        idle: After which a machine without work is gone.
    """

    at_home: float
    on_machine: float
    start: float
    idle: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What is compared."""

    flow: float
    met: float
    machine_hours: float
    workflows: int


def fit(logs: Sequence[Log]) -> Fitted:
    """From the logs of some parts of a run.

    Raises:
        BenchmarkError: they have no step at one of the two places.
    """
    alone, starts, warm, lags = list[float](), list[float](), list[float](), list[float]()
    for log in logs:
        steps = [one for workflow in log.workflows for one in _ran(workflow)]
        home = [step for step in steps if step.place == "local"]
        # mean flow times are sums of means, so means are taken, of what had nobody to wait for
        alone += [step.beside for step in home if _beside_it(step, home) < AT_ONCE]
        away = sorted((one for one in steps if one.place == "spot"), key=lambda one: one.ready)
        for begin, end in log.fleet.intervals:
            there = [one for one in away if begin <= one.ended <= end]
            if there:
                starts.append(there[0].beside)
                warm += [one.beside for one in there[1:] if one.ready >= there[0].began]
                lags.append(end - max(one.ended for one in there))
    if not alone or not warm:
        where = "at home" if not alone else "on a machine that was there already"
        raise BenchmarkError(f"no step ran {where}; run for longer")
    on_machine = statistics.fmean(warm)
    return Fitted(
        at_home=statistics.fmean(alone),
        on_machine=on_machine,
        start=max(0.0, statistics.fmean(starts) - on_machine),
        idle=statistics.fmean(lags),
    )


def pooled(parts: Sequence[Figures]) -> Figures:
    """Of several parts: means over all their workflows, the sum of their machines' hours."""
    count = sum(one.workflows for one in parts)
    return Figures(
        sum(one.flow * one.workflows for one in parts) / count,
        sum(one.met * one.workflows for one in parts) / count,
        sum(one.machine_hours for one in parts),
        count,
    )


def measured(log: Log, scripts: Sequence[Script]) -> Figures:
    """Of a real run; a workflow's script is found by its order."""
    pairs = list(zip(_ordered(log), scripts, strict=True))
    flows = [_flow(workflow) for workflow, _ in pairs]
    kept = [flow <= deadline_of(script) for flow, (_, script) in zip(flows, pairs, strict=True)]
    return Figures(statistics.fmean(flows), statistics.fmean(kept), log.fleet.hours, len(flows))


def simulated(log: Log, scripts: Sequence[Script], fitted: Fitted) -> Figures:
    """The same workflows at the times at which they really came."""
    day = day_of(log, scripts, fitted)
    simulation, policy = Simulation(day, order=AsScripted.order), AsScripted()
    while (decision := simulation.next_decision()) is not None:
        simulation.take(policy.choose(decision.view, decision.mask), policy.name)
    # the simulation ends with the last workflow, and its machines with it
    world = simulation.world
    idle = [world.now - machine.idle_since for machine in world.there()]
    outcome = simulation.outcome()
    flow = outcome.waiting * HOUR / outcome.workflows  # a dollar is an hour of a workflow there
    # the simulator looks at an idle machine once in IDLE_SECONDS, and it goes at once
    late = (outcome.bought - len(idle)) * max(0.0, fitted.idle - IDLE_SECONDS)
    late += sum(max(0.0, fitted.idle - seconds) for seconds in idle)
    return Figures(flow, outcome.met, outcome.machine_hours + late / HOUR, outcome.workflows)


def deadline_of(script: Script) -> float:
    """Seconds after its submission."""
    return GRACE + SLACK * script.critical


class AsScripted:
    """The policy of the real run, `routing_work.ByLength`, at the simulator's decisions."""

    name = "as scripted"
    order: Order = "fifo"

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        """See `rl.simulator.Policy`."""
        step = view.step
        if step is None:
            for slot in range(MACHINES):
                machine = view.machines[slot]
                if mask[FIRST_STOP + slot] and machine and machine.idle_seconds > IDLE_SECONDS - 1:
                    return FIRST_STOP + slot
            return KEEP
        if step.private:
            places = [HOME, WAIT]
        else:
            places = [*range(FIRST_MACHINE, FIRST_MACHINE + MACHINES), BUY, WAIT]
        return next((place for place in places if mask[place]), list(mask).index(True))


def day_of(log: Log, scripts: Sequence[Script], fitted: Fitted) -> Day:
    """A run as a day of the simulator: short steps must stay at home, long ones leave it."""
    arrivals = [workflow.created_at for workflow in _ordered(log)]
    begin = arrivals[0]
    workflows: list[Workflow] = []
    number = 0
    for index, (at, script) in enumerate(zip(arrivals, scripts, strict=True)):
        steps = _steps(script, index, number, fitted)
        number += len(steps)
        arrival = at - begin
        deadline = arrival + deadline_of(script)
        workflows.append(Workflow(index, arrival, 1.0, deadline, steps, script.critical))
    # a function's load on a machine is the simulator's own figure, and is in what was measured
    start = max(fitted.start - KINDS[_KIND].cold_cloud, 1.0)
    return Day(
        regime=_regime(),
        name="validation",
        workflows=tuple(workflows),
        user_gb=((0.0, _USER_GB),),
        shocks=(),
        outages=((), ()),
        hazard_per_hour=0.0,
        stockout=0.0,
        boot_median=start,
        megabytes_per_second=100.0,
        history=(0, 20.0),
        draws=Draws(1),
        until=24 * HOUR,
    )


def _steps(script: Script, workflow: int, first: int, fitted: Fitted) -> tuple[Step, ...]:
    names = {one.name: index for index, one in enumerate(script.pieces)}
    parents = [tuple(names[name] for name in one.after) for one in script.pieces]
    return tuple(
        Step(
            number=first + index,
            workflow=workflow,
            index=index,
            kind=_KIND,
            parents=parents[index],
            children=tuple(child for child, own in enumerate(parents) if index in own),
            memory_gb=0.0 if one.is_long else _STEP_GB,
            memory_mean_gb=0.0 if one.is_long else _STEP_GB,
            memory_p95_gb=0.0 if one.is_long else _STEP_GB,
            home_seconds=one.expected + fitted.at_home,
            cloud_seconds=one.expected + fitted.on_machine,
            home_mean=one.expected + fitted.at_home,
            cloud_mean=one.expected + fitted.on_machine,
            duration_sigma=0.0,
            transfer_mb=0.0,
            private=not one.is_long,
            after_mean=0.0,
        )
        for index, one in enumerate(script.pieces)
    )


def _regime() -> Regime:
    """Memory at home for AT_ONCE steps; cores and money for all."""
    return regime_of(
        {
            "name": "validation",
            "home": {
                "memory_gb": _HOME_GB,
                "cores": 1024.0,
                "user_gb": [_USER_GB, _USER_GB],
            },
            "spot": {
                "cores": 1024.0,
                "hazard_per_hour": [0, 0],
                "stockout": [0, 0],
                "outages_per_day": [0, 0],
                "boot_sigma": 0.0,
                "speed_sigma": 0.0,
            },
            "costs": {"hour_of_priority": 1.0, "miss": 0.0, "day_dollars": 100.0},
        },
        "the validation",
    )


def _ordered(log: Log) -> list[LoggedWorkflow]:
    return sorted(log.workflows, key=lambda one: one.created_at)


def _flow(workflow: LoggedWorkflow) -> float:
    assert workflow.finished_at is not None, f"workflow {workflow.id} has not ended"
    return workflow.finished_at - workflow.created_at


@dataclass(frozen=True, slots=True)
class _Ran:
    """A step that ran: when it could begin, when its function did, when it ended."""

    place: str
    ready: float
    began: float
    ended: float
    expected: float

    @property
    def beside(self) -> float:
        """Seconds beside what its author expects of the function."""
        return self.ended - self.ready - self.expected


def _ran(workflow: LoggedWorkflow) -> list[_Ran]:
    found: list[_Ran] = []
    for step in workflow.steps:
        assert step.ended_at is not None and step.seconds is not None
        ready = max((found[need].ended for need in step.needs), default=workflow.created_at)
        found.append(
            _Ran(
                step.place,
                ready,
                step.ended_at - step.seconds,
                step.ended_at,
                step.expected_seconds or 0.0,
            )
        )
    return found


def _beside_it(step: _Ran, others: Sequence[_Ran]) -> int:
    """Steps that ran or waited when it came."""
    return sum(one.ready <= step.ready < one.ended for one in others if one is not step)
