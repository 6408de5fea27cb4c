"""What happens in a day, whoever decides: time, steps, memory, money. See `rl.simulator`."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from typing import Any

from rl.events import Event
from rl.fleet import Fleet
from rl.ledger import DAY, Ledger
from rl.pace import Pace
from rl.sites import Machine, Run, Site, State, Task
from rl.work import KINDS, Day, Workflow

HOUR = 3600.0
SWAPPING = 0.3  # of its rate is left of a head that swaps
RETRY_SECONDS = 30.0  # after memory ran out
_SAME = 1e-9  # seconds within which events are one


class Mechanics(Fleet):
    """The state of a day and its laws.

    Args:
        day: Which.
        month_spent: USD of the month's cap that are gone when it begins.
    """

    def __init__(self, day: Day, month_spent: float) -> None:
        regime = day.regime
        super().__init__(day, Ledger(regime.costs, regime.spot.dollars_per_hour, month_spent))
        self.home = Site(regime.home.cores, regime.home.memory_gb)
        self.home_warm = ""
        self.user_gb = day.user_gb[0][1]
        self.active: dict[int, list[Task]] = {}
        self.finished: dict[int, float] = {}
        self.arrived: list[float] = []
        self.waiting_cost = self.miss_cost = 0.0
        self.missed = self.out_of_memory = self.misplaced = 0
        self.pace = Pace()
        self._weight = 0.0
        events: list[tuple[float, int, Any]] = [(DAY, Event.MIDNIGHT, None)]
        events += [(one.arrival, Event.ARRIVAL, one) for one in day.workflows]
        events += [(one.deadline, Event.DEADLINE, one) for one in day.workflows]
        events += [(when, Event.USER, gb) for when, gb in day.user_gb[1:]]
        events += [(when, Event.SHOCK, (zone, slot)) for when, zone, slot in day.shocks]
        self._heap = [(when, kind, index, what) for index, (when, kind, what) in enumerate(events)]
        heapify(self._heap)
        self._count = len(events)

    # time

    def push(self, when: float, kind: int, what: Any) -> None:
        """Let something happen later."""
        self._count += 1
        heappush(self._heap, (when, kind, self._count, what))

    def step(self, until: float = math.inf) -> bool:
        """Let the next thing happen, and what happens with it.

        Args:
            until: Seconds after midnight; what comes later is left.

        Returns:
            False at the end of the day, or when nothing happens until then.
        """
        if len(self.finished) == len(self.day.workflows) or not self._heap:
            return False
        first = self._heap[0][0]
        if first > until:
            return False
        if first > self.day.until:
            self._pass(self.day.until)
            return False
        self._pass(first)
        self.changes += 1
        while self._heap and self._heap[0][0] <= first + _SAME:
            _, kind, _, what = heappop(self._heap)
            self._happen(kind, what)
        return True

    def cost(self) -> float:
        """USD until now: the objective."""
        return self.ledger.charged(self.there(), self.now) + self.waiting_cost + self.miss_cost

    def spent_at(self, when: float) -> tuple[float, float]:
        """USD (of the objective, of that for machines) until a time before which nothing happens.

        A day that is over costs no more, whatever the time.
        """
        over = len(self.finished) == len(self.day.workflows)
        now = self.now if over else max(self.now, min(when, self.day.until))
        rate = self.day.regime.costs.hour_of_priority / HOUR
        machines = self.ledger.total + self.ledger.owed(self.there(), now)
        waiting = self.waiting_cost + (now - self.now) * self._weight * rate
        charged = self.ledger.charged(self.there(), now)
        return charged + waiting + self.miss_cost, machines

    def close(self) -> None:
        """Give back what is left, at the end."""
        for machine in self.there():
            self.leave(machine)
        self.ledger.close_day()

    def _pass(self, now: float) -> None:
        rate = self.day.regime.costs.hour_of_priority / HOUR
        self.waiting_cost += (now - self.now) * self._weight * rate
        self.now = now

    def _happen(self, kind: int, what: Any) -> None:
        if kind == Event.ENDED:
            site, version, machine = what
            if site.version == version:
                self._ended(site, machine)
        elif kind == Event.ARRIVAL:
            self._arrive(what)
        elif kind == Event.DEADLINE:
            self._deadline(what)
        elif kind == Event.USER:
            self._user(what)
        elif kind == Event.WAKE:
            what.is_held = False
        else:
            self.happen(kind, what)

    # workflows

    def _arrive(self, workflow: Workflow) -> None:
        tasks = [Task(step, workflow, len(step.parents)) for step in workflow.steps]
        self.active[workflow.number] = tasks
        self.arrived.append(self.now)
        self._weight += workflow.priority
        self.ask_about_machines = True
        for task in tasks:
            if not task.parents_left:
                self.make_ready(task)

    def _deadline(self, workflow: Workflow) -> None:
        if self.finished.get(workflow.number, math.inf) > workflow.deadline:
            self.missed += 1
            self.miss_cost += self.day.regime.costs.miss * workflow.priority

    def make_ready(self, task: Task) -> None:
        """Let a task wait for a place."""
        if task.state is not State.BOUND:  # a machine that never came does not begin its wait anew
            task.ready_at = self.now
        task.state = State.WAITING
        task.is_held = task.is_timed = False
        self.waiting.append(task)

    def wake(self) -> None:
        """Ask again about all that wait: something has changed."""
        for task in self.waiting:
            task.is_held = False

    def hold(self, task: Task, starvation: float) -> None:
        """Let a task wait for an event, or until it starves."""
        task.is_held = True
        if not task.is_timed:
            task.is_timed = True
            self.push(max(task.ready_at + starvation + 1.0, self.now + 1.0), Event.WAKE, task)

    def finish(self, task: Task) -> None:
        """A task has done its work."""
        self.steps_moved = True
        task.state = State.DONE
        tasks = self.active[task.workflow.number]
        for child in task.step.children:
            tasks[child].parents_left -= 1
            if not tasks[child].parents_left:
                self.make_ready(tasks[child])
        if all(one.state is State.DONE for one in tasks):
            del self.active[task.workflow.number]
            self.finished[task.workflow.number] = self.now
            self._weight -= task.workflow.priority

    # the head

    def start_at_home(self, task: Task) -> None:
        """Start a task that waits at home."""
        self.changes += 1
        self.steps_moved = True
        step = task.step
        cold = 0.0 if self.home_warm == step.kind else KINDS[step.kind].cold_home
        total = cold + step.home_seconds * task.share
        self.waiting.remove(task)
        task.state = State.RUNNING
        self.home.advance(self.now)
        self.home.add(Run(task, total, total, cold, cold + step.home_mean * task.share))
        self.home_warm = step.kind
        self._settle_home(is_placing=True)

    def _user(self, user_gb: float) -> None:
        if user_gb < self.user_gb:
            self.wake()
        self.user_gb = user_gb
        self.home.advance(self.now)
        self._settle_home()

    def _settle_home(self, *, is_placing: bool = False) -> None:
        """After the head's load or memory changed."""
        home = self.day.regime.home
        while self.home.runs and self.user_gb + self.home.used_gb > home.memory_gb + home.swap_gb:
            self.run_out(self.home, self.home.runs[-1], is_placing=is_placing)
        swaps = self.user_gb + self.home.used_gb > home.memory_gb
        first = self.home.settle(SWAPPING if swaps else 1.0)
        if first < math.inf:
            self.push(self.now + first, Event.ENDED, (self.home, self.home.version, None))

    def run_out(self, site: Site, run: Run, *, is_placing: bool) -> None:
        """End a step for which there is no memory; it comes back knowing how much it needs."""
        site.remove(run)
        self.out_of_memory += 1
        self.misplaced += is_placing
        task = run.task
        self.lost_seconds += run.progress() * task.share * task.step.home_seconds
        task.memory_floor = task.step.memory_gb
        self.make_ready(task)
        task.is_held = True
        self.push(self.now + RETRY_SECONDS, Event.WAKE, task)

    def _ended(self, site: Site, machine: Machine | None) -> None:
        site.advance(self.now)
        for run in site.ended():
            site.remove(run)
            if machine is not None:
                step = run.task.step
                took = (run.total - run.overhead) / run.task.share
                self.pace.saw(took, step.cloud_mean, step.duration_sigma)
            self.finish(run.task)
        if machine is None:
            self._settle_home()
        else:
            self.settle(machine)
        self.wake()
