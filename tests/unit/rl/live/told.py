"""A moment of a simulated day, told as the running system would tell it.

Each step of the day is a function of its own, of which the fit believes what the day does. The day
must be one that the running system can have: steps of functions, memory that is known, cores for
all (what a step has done is taken from the rate that it has now), no swapping.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from actors.situation import (
    EndedFacts,
    HomeFacts,
    MachineFacts,
    MoneyFacts,
    Plan,
    Ready,
    RunFacts,
    Situation,
    StepFacts,
)
from ironcliw.schemas.base import Priority
from rl.calibration.fit import CLOUD, HOME, Fit, LogNormal, prior
from rl.pace import Pace
from rl.simulator import Decision, Simulation
from rl.sites import Machine, Run, Task
from rl.work import KINDS, Day, Step, Workflow

COLD = KINDS["function"].cold_cloud
_NAMES: dict[float, Priority] = {1.5: "high", 1.0: "normal", 0.7: "low"}


def target_of(step: Step) -> str:
    """The name of a step's function."""
    return f"f{step.number}"


def fit_of(day: Day) -> Fit:
    """That believes what the day's steps are believed to be."""
    durations: dict[str, dict[str, LogNormal]] = {}
    memory: dict[str, LogNormal] = {}
    for step in (step for workflow in day.workflows for step in workflow.steps):
        durations[target_of(step)] = {
            HOME: LogNormal(math.log(step.home_mean), step.duration_sigma, 1),
            CLOUD: LogNormal(math.log(step.cloud_mean), step.duration_sigma, 1),
        }
        memory[target_of(step)] = LogNormal(math.log(step.memory_p95_gb), 0.0, 1)
    return replace(prior(), durations=durations, memory=memory)


class SeenPace(Pace):
    """Remembers what the simulator learned of machines."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, float]] = []

    def saw(self, took: float, believed: float, sigma: float) -> None:
        """See `Pace`."""
        super().saw(took, believed, sigma)
        self.seen.append((took, believed))


class Teller:
    """Of one simulation.

    Args:
        simulation: Of a day like that.
        midnight: Unix seconds of the day's, in local time.
    """

    def __init__(self, simulation: Simulation, midnight: float) -> None:
        self.world = simulation.world
        self.pace = SeenPace()
        self.world.pace = self.pace
        self._begin = midnight
        self._plans: dict[int, Plan] = {}

    def __call__(self, decision: Decision) -> Situation:
        """The situation of a decision about a step."""
        world, view = self.world, decision.view
        assert decision.task is not None
        others = {task.step.number: self._step(task) for task in world.waiting}
        local = tuple(self._run(run) for run in world.home.runs)
        room = world.home.memory_gb - world.user_gb - world.home.used_gb
        held = {run.target: run.memory_gb or 0.0 for run in local}
        return Situation(
            at=self._at(world.now),
            age=0.0,
            may_wait=True,
            step=others[decision.task.step.number],
            home=HomeFacts(world.home.memory_gb, room, world.home.cores, local, held),
            machines=tuple(self._machine(one) for one in world.machines if one is not None),
            money=self._money(),
            waiting=len(world.waiting),
            arrivals=view.arrivals_half_hour,
            has_cloud=True,
            most_machines=world.day.regime.spot.machines,
            machine_gb=world.day.regime.spot.memory_gb,
            others=tuple(others.values()),
            ended=tuple(self._ended()),
        )

    def can_tell(self) -> bool:
        """False while a step loads on a machine: the running system does not know how far it is."""
        sites = [one.site for one in self.world.machines if one is not None]
        runs = [run for site in sites for run in site.runs]
        return not any(0 < run.total - run.left < run.overhead for run in runs)

    def _at(self, now: float) -> float:
        return self._begin + now

    def _ready(self, task: Task) -> Ready:
        return Ready(self._at(task.ready_at), self._plan(task.workflow), task.step.index)

    def _plan(self, workflow: Workflow) -> Plan:
        return self._plans.setdefault(
            workflow.number,
            Plan(
                tuple(target_of(step) for step in workflow.steps),
                (None,) * len(workflow.steps),
                tuple(step.children for step in workflow.steps),
            ),
        )

    def _step(self, task: Task) -> StepFacts:
        step, workflow = task.step, task.workflow
        return StepFacts(
            workflow_id=str(workflow.number),
            step=str(step.index),
            item=None,
            attempt=1,
            target=target_of(step),
            place="private" if step.private else "any",
            priority=_NAMES[workflow.priority],
            memory_gb=None,
            expected_seconds=None,
            deadline=self._at(workflow.deadline),
            ready=self._ready(task),
            losses=task.spot_losses,
        )

    def _run(self, run: Run, *, on_machine: bool = False) -> RunFacts:
        done = run.total - run.left
        has_begun = not on_machine or done >= run.overhead
        facts = self._placed(run.task, has_begun=has_begun)
        return replace(facts, since=self._at(self.world.now) - max(0.0, done - run.overhead))

    def _placed(self, task: Task, *, has_begun: bool) -> RunFacts:
        return RunFacts(
            target=target_of(task.step),
            priority=_NAMES[task.workflow.priority],
            memory_gb=task.step.memory_gb,
            expected_seconds=None,
            since=self._at(self.world.now),
            has_begun=has_begun,
            workflow_id=str(task.workflow.number),
            ready=self._ready(task),
        )

    def _machine(self, machine: Machine) -> MachineFacts:
        site, now = machine.site, self.world.now
        runs = tuple(self._run(run, on_machine=True) for run in site.runs)
        if not machine.is_ready:
            runs = tuple(self._placed(task, has_begun=False) for task in machine.bound)
        state = "leaving" if machine.is_leaving else "ready" if machine.is_ready else "booting"
        node = f"slot {machine.slot}" if machine.is_ready else ""
        done = frozenset[str]()
        if machine.warm or machine.bound:  # here all steps are of one kind, which is loaded
            cold = {target_of(run.task.step) for run in site.runs if run.overhead >= COLD}
            workflows = self.world.day.workflows
            steps = (step for workflow in workflows for step in workflow.steps)
            done = frozenset(target_of(step) for step in steps) - cold
        return MachineFacts(
            node=node,
            state=state,  # type: ignore[arg-type]
            since=self._at(machine.bought_at),
            memory_gb=site.memory_gb,
            free_gb=site.memory_gb - site.used_gb,
            cores=site.cores,
            runs=runs,
            idle_since=None if site.runs else self._at(machine.idle_since or now),
            done=done,
        )

    def _money(self) -> MoneyFacts:
        world = self.world
        costs = world.day.regime.costs
        day_left, month_left = world.ledger.left(world.there(), world.now)
        losses, hours = world.day.history
        refused = max(world.refused_at)
        return MoneyFacts(
            price_per_hour=world.ledger.price,
            day_spent=costs.day_dollars - day_left,
            month_spent=costs.month_dollars - month_left,
            day_cap=world.ledger.day_cap,
            month_cap=costs.month_dollars,
            losses=losses + world.lost,
            exposed_hours=hours + world.exposed_seconds / 3600.0,
            boots=tuple(world.boots),
            refused_at=None if math.isinf(refused) else self._at(refused),
        )

    def _ended(self) -> Sequence[EndedFacts]:
        found = []
        targets = {
            step.cloud_mean: target_of(step)
            for workflow in self.world.day.workflows
            for step in workflow.steps
        }
        for took, believed in self.pace.seen:
            found.append(EndedFacts(targets[believed], None, took, self._at(self.world.now)))
        return found


def local_midnight() -> float:
    """Of some day."""
    told = time.localtime(1_800_000_000.0)
    return 1_800_000_000.0 - 3600.0 * told.tm_hour - 60.0 * told.tm_min - told.tm_sec


def like_a_system(**sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections of a regime whose days the running system can have."""
    given: dict[str, dict[str, Any]] = {
        "estimates": {"duration_sigma": [0.5, 0.5], "memory_sigma": [0, 0]},
        "spot": {"speed_sigma": 0.2, "boot_sigma": 0.3, "machines": 3},
    }
    for name, section in sections.items():
        given[name] = {**given.get(name, {}), **section}
    return given
