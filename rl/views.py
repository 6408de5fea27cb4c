"""Builds what a policy sees from a simulated day."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from rl.guardrails import RESERVE_GB
from rl.mechanics import HOUR, Mechanics
from rl.sites import Machine, Run, Site, Task
from rl.upcoming import ends, first_large, longest_beside
from rl.view import HomeView, MachineView, MoneyView, RunView, StepView, View, WaitingView
from rl.view_parts import (
    Bound,
    boot_mean,
    booting_view,
    committed_dollars,
    hazard_mean,
    run_view,
    working_view,
)
from rl.work import KINDS


class Beliefs:
    """What a scheduler knows of a day as it goes on.

    Args:
        world: The day.
        clairvoyant: Whether it knows the truth of steps that it should only guess.
    """

    def __init__(self, world: Mechanics, clairvoyant: bool = False) -> None:
        self.world = world
        self.clairvoyant = clairvoyant
        self._seen = (-1, -1.0)
        self._home: HomeView
        self._machines: list[MachineView | None]
        self._money: MoneyView
        self._large_in = math.inf
        self._others: list[WaitingView] = []
        self._known: dict[tuple[int, float, float], WaitingView] = {}
        self._left: dict[int, float] = {}

    def boot_seconds(self) -> float:
        """Mean of what a machine takes to start."""
        return boot_mean(self.world.boots)

    def hazard_per_hour(self) -> float:
        """Mean of the posterior of a machine's hazard."""
        losses, hours = self.world.day.history
        seen = self.world.exposed_seconds / HOUR
        return hazard_mean(losses + self.world.lost, hours + seen)

    def home_seconds(self, task: Task) -> float:
        """Of work at home."""
        step = task.step
        return (step.home_seconds if self.clairvoyant else step.home_mean) * task.share

    def cloud_seconds(self, task: Task) -> float:
        """Of work on a machine."""
        step = task.step
        return (step.cloud_seconds if self.clairvoyant else step.cloud_mean) * task.share

    def parts(self) -> tuple[HomeView, list[MachineView | None], MoneyView]:
        """What all decisions of a moment share; the same objects until something changes."""
        world = self.world
        if self._seen != (world.changes, world.now):
            self._seen = (world.changes, world.now)
            world.home.advance(world.now)
            self._home = self._at_home()
            self._machines = [None if one is None else self._machine(one) for one in world.machines]
            self._money = self._of_money()
            self._left = self._seconds_left()
            self._large_in = self._first_large()
            self._others = [self._waiting(task) for task in world.waiting]
        return self._home, self._machines, self._money

    def _at_home(self) -> HomeView:
        world, site = self.world, self.world.home
        runs = self._runs(site)
        room = site.memory_gb - world.user_gb
        return HomeView(
            site.memory_gb, room, room - site.used_gb, site.cores, site.cores_wanted, runs,
            world.home_warm,
        )  # fmt: skip

    def _machine(self, machine: Machine) -> MachineView:
        now, site = self.world.now, machine.site
        site.advance(now)
        warm = machine.warm | {task.step.kind for task in machine.bound}
        if not machine.is_ready:
            return booting_view(
                "leaving" if machine.is_leaving else "booting",
                now - machine.bought_at,
                self.boot_seconds(),
                site.memory_gb,
                site.cores,
                [self._bound(task) for task in machine.bound],
                warm,
            )
        return working_view(
            "leaving" if machine.is_leaving else "ready",
            site.memory_gb - site.used_gb,
            site.cores,
            site.cores_wanted,
            self._runs(site),
            now - machine.idle_since,
            warm,
        )

    def _bound(self, task: Task) -> Bound:
        seconds = KINDS[task.step.kind].cold_cloud + self.cloud_seconds(task)
        memory = max(task.step.memory_p95_gb, task.memory_floor)
        return Bound(task.step.cores_wanted, memory, seconds)

    def _of_money(self) -> MoneyView:
        world, costs = self.world, self.world.day.regime.costs
        price = world.ledger.price
        day_left, month_left = world.ledger.left(world.there(), world.now)
        committed = committed_dollars(self._machines, price)
        return MoneyView(
            price_per_hour=price,
            day_left=day_left,
            month_left=month_left,
            committed=committed,
            hazard_per_hour=self.hazard_per_hour(),
            boot_seconds=self.boot_seconds(),
            stocked_out_seconds=world.now - max(world.refused_at),
            hour_of_priority=costs.hour_of_priority,
            miss=costs.miss,
            day_cap=world.ledger.day_cap,
            cloud_pace=world.pace.mean(),
        )

    def _runs(self, site: Site) -> list[RunView]:
        slowness = 1.0 / site.rate
        found = []
        for run in site.runs:
            work, task = self._work_left(run), run.task
            step, weight = task.step, task.workflow.priority
            found.append(run_view(work, slowness, step.memory_gb, weight, step.cores_wanted))
        return found

    def _work_left(self, run: Run) -> float:
        return run.left if self.clairvoyant else run.believed_left()

    def _seconds_left(self) -> dict[int, float]:
        """Until the end of each step that has a place, by number."""
        found = {
            run.task.step.number: view.seconds_left
            for run, view in zip(self.world.home.runs, self._home.runs, strict=True)
        }
        for machine, view in zip(self.world.machines, self._machines, strict=True):
            if machine is not None and view is not None:
                for run, seen in zip(machine.site.runs, view.runs, strict=True):
                    found[run.task.step.number] = seen.seconds_left
                for task in machine.bound:
                    found[task.step.number] = view.busy_seconds
        return found

    def _first_large(self) -> float:
        world = self.world
        room = world.home.memory_gb - world.user_gb - RESERVE_GB
        active = world.active.values()
        return min((first_large(tasks, self._left, room) for tasks in active), default=math.inf)

    def large_in(self) -> float:
        """Believed seconds until a step that is too large for home is ready."""
        self.parts()
        return self._large_in

    def others(self) -> list[WaitingView]:
        """Steps that are ready and have no place."""
        self.parts()
        return self._others

    def seconds_to_end(self, tasks: Sequence[Task]) -> float:
        """Believed seconds to the end of a workflow whose steps they are, if none had to wait."""
        self.parts()
        return max(ends(tasks, self._left), default=0.0)

    def beside_seconds(self, task: Task) -> float:
        """See `rl.upcoming.longest_beside`."""
        return longest_beside(task, self.world.active[task.workflow.number], self._left)

    def _waiting(self, task: Task) -> WaitingView:
        key = (task.step.number, task.share, task.memory_floor)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._seen_waiting(task)
        return known

    def _seen_waiting(self, task: Task) -> WaitingView:
        step, workflow = task.step, task.workflow
        memory = step.memory_gb if self.clairvoyant else step.memory_p95_gb
        return WaitingView(
            number=step.number,
            memory_gb=max(memory, task.memory_floor),
            home_seconds=self.home_seconds(task),
            cloud_seconds=self.cloud_seconds(task),
            after_seconds=step.after_mean,
            priority=workflow.priority,
            deadline=workflow.deadline,
            private=step.private,
        )


def view_of(world: Mechanics, beliefs: Beliefs, task: Task | None) -> View:
    """What is seen at a decision about a task, or about the machines."""
    home, machines, money = beliefs.parts()
    recent = len(world.arrived) - bisect_left(world.arrived, world.now - HOUR / 2)
    step = None if task is None else _step(world, beliefs, task)
    return View(
        world.now, step, home, machines, money, len(world.waiting), recent, beliefs.large_in(),
        beliefs.others(),
    )  # fmt: skip


def _step(world: Mechanics, beliefs: Beliefs, task: Task) -> StepView:
    step, kind, floor = task.step, KINDS[task.step.kind], task.memory_floor
    mean, p95 = step.memory_mean_gb, step.memory_p95_gb
    if beliefs.clairvoyant:
        mean = p95 = step.memory_gb
    return StepView(
        number=step.number,
        kind=step.kind,
        memory_mean_gb=max(mean, floor),
        memory_p95_gb=max(p95, floor),
        home_seconds=beliefs.home_seconds(task),
        cloud_seconds=beliefs.cloud_seconds(task),
        duration_sigma=step.duration_sigma,
        cold_home=0.0 if world.home_warm == step.kind else kind.cold_home,
        cold_cloud=kind.cold_cloud,
        cores=step.cores_wanted,
        transfer_seconds=step.transfer_mb / world.day.megabytes_per_second,
        checkpointable=kind.checkpointable,
        private=step.private,
        priority=task.workflow.priority,
        deadline_in=task.workflow.deadline - world.now,
        after_seconds=step.after_mean,
        waited=world.now - task.ready_at,
        spot_losses=task.spot_losses,
        fan_out=len(step.children),
        beside_seconds=beliefs.beside_seconds(task),
    )
