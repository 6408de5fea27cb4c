"""Copies of a simulation at a decision, so that one day can go on in more than one way.

What never changes is shared: the day, its workflows and steps. All else is copied by hand, since
`copy.deepcopy` would take longer than the hours that a branch simulates. A branch meets the day
that the simulation meets (`rl.draws`), so two of them differ by what was decided alone.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from rl.events import Event
from rl.mechanics import Mechanics
from rl.simulator import Decision, Policy, Simulation
from rl.sites import Machine, Run, Site, Task
from rl.views import Beliefs


def branch(simulation: Simulation) -> Simulation:
    """A copy that goes on by itself, at the same decision."""
    copies = _Copies()
    twin = copy.copy(simulation)
    twin.world = world = copies.world(simulation.world)
    twin.beliefs = Beliefs(world, simulation.beliefs.clairvoyant)
    twin._queue = [copies.task(task) for task in simulation._queue]
    if (current := simulation._current) is not None:
        task = current.task and copies.task(current.task)
        twin._current = Decision(current.view, current.reasons, task)
    return twin


def advance(simulation: Simulation, policy: Policy, until: float = math.inf) -> None:
    """Let a policy decide until a time, or the end of the day."""
    while (decision := simulation.next_decision(until)) is not None:
        simulation.take(policy.choose(decision.view, decision.mask), policy.name)


def is_idle(simulation: Simulation) -> bool:
    """Whether no workflow and no machine is there, so that nothing is spent."""
    world = simulation.world
    return not world.active and not any(True for _ in world.there())


_FIXED = (Event.SHOCK, Event.USER, Event.MIDNIGHT, Event.CAP, Event.ARRIVAL, Event.DEADLINE)


class _Copies:
    """Of what is referred to from more than one place, one copy each."""

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}
        self._sites: dict[int, Site] = {}
        self._machines: dict[int, Machine] = {}

    def world(self, old: Mechanics) -> Mechanics:
        new = copy.copy(old)
        new.ledger, new.pace = copy.copy(old.ledger), old.pace.copy()
        new.boots, new.arrived = list(old.boots), list(old.arrived)
        new.refused_at, new.finished = list(old.refused_at), dict(old.finished)
        new.active = {
            number: [self.task(task) for task in tasks] for number, tasks in old.active.items()
        }
        new.waiting = [self.task(task) for task in old.waiting]
        new.home = self.site(old.home)
        new.machines = [one and self.machine(one) for one in old.machines]
        new._heap = [
            one if one[1] in _FIXED else (*one[:3], self.what(one[1], one[3])) for one in old._heap
        ]
        return new

    def what(self, kind: int, what: Any) -> Any:
        """What comes with an event that is not fixed; see `rl.events.Event`."""
        if kind == Event.ENDED:
            site, version, machine = what
            return self.site(site), version, machine and self.machine(machine)
        if kind in (Event.GONE, Event.READY, Event.NONE_LEFT):
            return self.machine(what)
        if kind == Event.IDLE:
            machine, version = what
            return self.machine(machine), version
        assert kind == Event.WAKE
        return self.task(what)

    def task(self, old: Task) -> Task:
        new = self._tasks.get(id(old))
        if new is None:
            new = self._tasks[id(old)] = Task(
                old.step, old.workflow, old.parents_left, old.state, old.share, old.ready_at,
                old.spot_losses, old.memory_floor, old.is_held, old.is_timed,
            )  # fmt: skip
        return new

    def site(self, old: Site) -> Site:
        new = self._sites.get(id(old))
        if new is None:
            new = self._sites[id(old)] = copy.copy(old)
            new.runs = [
                Run(self.task(run.task), run.left, run.total, run.overhead, run.believed)
                for run in old.runs
            ]
        return new

    def machine(self, old: Machine) -> Machine:
        new = self._machines.get(id(old))
        if new is None:
            new = self._machines[id(old)] = copy.copy(old)
            new.site = self.site(old.site)
            new.bound = [self.task(task) for task in old.bound]
            new.warm = set(old.warm)
        return new
