"""Machines in the cloud: bought, started, used, taken back, paid for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from rl.events import Event
from rl.guardrails import must_stop
from rl.ledger import LEAST_SECONDS, Ledger
from rl.sites import Machine, Run, Site, State, Task
from rl.work import KINDS, ZONES, Day

HOUR = 3600.0
REFUSAL_SECONDS = 45.0  # until a zone says that it has none
SAVING_SECONDS = 20.0  # that a checkpoint takes; with less notice the last one counts
CHECKPOINT_SECONDS = 60.0  # between two of them
IDLE_SECONDS = 60.0  # after which an idle machine is asked about again


class Fleet(ABC):
    """The machines of a day; the rest of it is `rl.mechanics`."""

    def __init__(self, day: Day, ledger: Ledger) -> None:
        self.day = day
        self.ledger = ledger
        self.now = 0.0
        self.changes = 0
        self.waiting: list[Task] = []
        self.ask_about_machines = False
        self.steps_moved = False  # since a decision about the machines
        self.machines: list[Machine | None] = [None] * max(day.regime.spot.machines, 3)
        self.bought = self.stocked_out = self.lost = 0
        self.lost_seconds = self.exposed_seconds = 0.0
        self.boots: list[float] = []
        self.refused_at = [-math.inf] * ZONES
        self._cap_version = 0

    @abstractmethod
    def push(self, when: float, kind: int, what: Any) -> None:
        """Let something happen later."""

    @abstractmethod
    def make_ready(self, task: Task) -> None:
        """Let a task wait for a place."""

    @abstractmethod
    def wake(self) -> None:
        """Ask again about all that wait."""

    @abstractmethod
    def finish(self, task: Task) -> None:
        """A task has done its work."""

    @abstractmethod
    def run_out(self, site: Site, run: Run, *, is_placing: bool) -> None:
        """End a step for which there is no memory."""

    def there(self) -> Iterator[Machine]:
        """Machines that somebody has ordered and nobody has given back."""
        return (machine for machine in self.machines if machine is not None)

    # what is decided

    def buy(self) -> Machine:
        """Order a machine, in the zone that refused longest ago."""
        self.changes += 1
        self.bought += 1
        slot = next(slot for slot, machine in enumerate(self.machines) if machine is None)
        zone = min(range(ZONES), key=lambda zone: self.refused_at[zone])
        is_real = not self.day.is_stocked_out(zone, self.now)
        spot = self.day.regime.spot
        machine = Machine(
            slot=slot,
            zone=zone,
            bought_at=self.now,
            speed=self.day.speed(zone, slot, self.now),
            is_real=is_real,
            site=Site(spot.cores, spot.memory_gb),
            paid_from=self.now,
            least_seconds=LEAST_SECONDS,
        )
        self.machines[slot] = machine
        if is_real:
            seconds = self.day.boot_seconds(zone, slot, self.now)
            self.push(self.now + seconds, Event.READY, machine)
            self._watch_the_cap()
        else:
            self.push(self.now + REFUSAL_SECONDS, Event.NONE_LEFT, machine)
        return machine

    def bind(self, task: Task, slot: int) -> None:
        """Give a task that waits to a machine."""
        self.changes += 1
        machine = self.machines[slot]
        assert machine is not None
        self.waiting.remove(task)
        if machine.is_ready:
            self._start(machine, task)
            self.settle(machine)
        else:
            task.state = State.BOUND
            machine.bound.append(task)

    def stop(self, slot: int) -> None:
        """Give an idle machine back."""
        self.changes += 1
        machine = self.machines[slot]
        assert machine is not None and not machine.site.runs and not machine.bound
        self.leave(machine)

    def leave(self, machine: Machine) -> None:
        """Pay for a machine and forget it."""
        self.ledger.pay(machine, self.now)
        if machine.is_real:
            self.exposed_seconds += self.now - machine.bought_at
        self.machines[machine.slot] = None
        self._watch_the_cap()

    # what happens

    def happen(self, kind: int, what: Any) -> None:
        """An event of the machines."""
        if kind == Event.CAP:
            self._check_the_cap(what)
        elif kind == Event.MIDNIGHT:
            self.ledger.midnight(self.there(), self.now)
            self.push(self.now + 24 * HOUR, Event.MIDNIGHT, None)
            self._watch_the_cap()
            self.wake()
        elif kind == Event.SHOCK:
            zone, slot = what
            machine = self.machines[slot]
            if machine and machine.zone == zone and machine.is_real and not machine.is_leaving:
                self.lost += 1
                self._notify(machine)
        elif kind == Event.IDLE:
            idle, version = what
            if self.machines[idle.slot] is idle and idle.site.version == version:
                self._stay_idle(idle)
        elif self.machines[what.slot] is what:
            if kind == Event.GONE:
                self._gone(what)
            elif kind == Event.READY:
                self._ready(what)
            else:
                self._none_left(what)

    def _ready(self, machine: Machine) -> None:
        if machine.is_leaving:
            return
        machine.is_ready = True
        self.boots.append(self.now - machine.bought_at)
        bound, machine.bound = machine.bound, []
        for task in bound:
            self._start(machine, task)
        self.settle(machine)
        self.wake()

    def _none_left(self, machine: Machine) -> None:
        self.stocked_out += 1
        self.refused_at[machine.zone] = self.now
        self._release(machine)
        self.leave(machine)
        self.wake()

    def _notify(self, machine: Machine) -> None:
        """What runs may end within the notice; what has not begun looks for another place."""
        machine.is_leaving = True
        self._release(machine)
        self.push(self.now + self.day.regime.spot.notice_seconds, Event.GONE, machine)

    def _release(self, machine: Machine) -> None:
        bound, machine.bound = machine.bound, []
        for task in bound:
            self.make_ready(task)

    def _gone(self, machine: Machine) -> None:
        machine.site.advance(self.now)
        runs, machine.site.runs = machine.site.runs, []
        for run in runs:
            self._lose(run)
        self.leave(machine)
        self.wake()

    def _lose(self, run: Run) -> None:
        task, progress, saved = run.task, run.progress(), 0.0
        if KINDS[task.step.kind].checkpointable:
            saved = progress
            if self.day.regime.spot.notice_seconds < SAVING_SECONDS:
                work = run.total - run.overhead
                count = math.floor(progress * work / CHECKPOINT_SECONDS)
                saved = count * CHECKPOINT_SECONDS / work
        self.lost_seconds += (progress - saved) * task.share * task.step.home_seconds
        task.share = max(task.share * (1.0 - saved), 1e-6)
        task.spot_losses += 1
        self.make_ready(task)

    def _start(self, machine: Machine, task: Task) -> None:
        step = task.step
        cold = 0.0 if step.kind in machine.warm else KINDS[step.kind].cold_cloud
        overhead = cold + step.transfer_mb / self.day.megabytes_per_second
        total = overhead + step.cloud_seconds * task.share / machine.speed
        believed = overhead + step.cloud_mean * task.share
        task.state = State.RUNNING
        self.steps_moved = True
        machine.warm.add(step.kind)
        machine.site.advance(self.now)
        machine.site.add(Run(task, total, total, overhead, believed))
        if machine.site.used_gb > machine.site.memory_gb + 1e-9:
            self.run_out(machine.site, machine.site.runs[-1], is_placing=True)

    def settle(self, machine: Machine) -> None:
        """After a machine's load changed."""
        first = machine.site.settle()
        if machine.site.runs:
            self.push(self.now + first, Event.ENDED, (machine.site, machine.site.version, machine))
        elif machine.is_ready and not machine.is_leaving:
            machine.idle_since = self.now
            self._stay_idle(machine)

    def _stay_idle(self, machine: Machine) -> None:
        self.ask_about_machines = True
        self.push(self.now + IDLE_SECONDS, Event.IDLE, (machine, machine.site.version))

    def _watch_the_cap(self) -> None:
        """Look again when what runs now will have used up the money."""
        self._cap_version += 1
        rate = sum(machine.is_real for machine in self.there()) * self.ledger.price / HOUR
        if rate > 0:
            left = min(self.ledger.left(self.there(), self.now))
            seconds = left / rate - self._notice()
            self.push(self.now + max(seconds, 0.001), Event.CAP, self._cap_version)

    def _check_the_cap(self, version: int) -> None:
        if version != self._cap_version:
            return
        count = sum(machine.is_real for machine in self.there())
        left = self.ledger.left(self.there(), self.now)
        if not must_stop(*left, count, self.ledger.price, self._notice()):
            self._watch_the_cap()
            return
        for machine in self.there():
            if machine.is_real and not machine.is_leaving:
                self._notify(machine)

    def _notice(self) -> float:
        return self.day.regime.spot.notice_seconds + 2.0  # for rounding
