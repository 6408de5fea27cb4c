"""What is around a step that is to be placed: what runs, what waits, what has come and ended.

The facts of a `Situation`, remembered as the router hears of them. No I/O of its own: machines,
money and memory are asked of the fleet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from actors.attempt_history import AttemptHistory
from actors.routing import LOCAL, SPOT, Option
from actors.situation import (
    EndedFacts,
    HomeFacts,
    MachineFacts,
    MoneyFacts,
    Ready,
    RunFacts,
    Situation,
    StepFacts,
    Waiting,
)
from actors.workflow.tasks import StepTask

MOST_OTHERS = 64
"""Of the steps that wait a policy is told so many."""
_RECENT_SECONDS = 1800.0
_DAY = 86_400.0
_MOST_ENDED = 200
Key = tuple[str, int]


class Machine(Protocol):
    """What a simple policy's features come from."""

    def options(self) -> Sequence[Option]:
        """Where work may go in this cluster."""
        ...

    def memory(self) -> tuple[float, float]:
        """The head's: gigabytes available, and percent in use."""
        ...


class Fleet(Protocol):
    """What a situation is made of; `actors.fleet_facts` has the one of a cluster."""

    has_cloud: bool
    most_machines: int
    new_machine: MachineFacts

    @property
    def age(self) -> float:
        """Seconds since machines and money were read."""
        ...

    def home(self) -> HomeFacts:
        """The head, without its runs."""
        ...

    def machines(self) -> Sequence[MachineFacts]:
        """Those of the cloud, without their runs."""
        ...

    def money(self) -> MoneyFacts | None:
        """None where nothing can be bought."""
        ...


@dataclass(slots=True)
class _Placed:
    run: RunFacts
    place: str
    node: str
    is_known: bool = False


class Surroundings:
    """Of one cluster.

    Args:
        machine: The head's memory, where there is no fleet.
        fleet: Machines and money; None: the head alone.
        clock: Unix seconds.
    """

    def __init__(self, machine: Machine, fleet: Fleet | None, clock: Callable[[], float]) -> None:
        self._machine = machine
        self._fleet = fleet
        self._clock = clock
        self._history = AttemptHistory()
        self._placed: dict[Key, _Placed] = {}
        self._done: dict[str, set[str]] = {}
        self._arrivals: deque[float] = deque()
        self._ended: deque[EndedFacts] = deque(maxlen=_MOST_ENDED)
        self._waits: dict[Key, StepFacts] = {}
        self.waiting: Callable[[], int] = lambda: 1
        # what the questions of a round share; None: to be made anew
        self._round_at: float | None = None
        self._home: HomeFacts | None = None
        self._machines: tuple[MachineFacts, ...] | None = None
        self._others: tuple[StepFacts, ...] | None = None
        self._ended_then: tuple[EndedFacts, ...] | None = None

    # ------------------------------------------------------------------ rounds

    def begin_round(self, asked: Iterable[Waiting], held: Iterable[Waiting]) -> None:
        """Questions of one moment follow: time and facts stand still, but for what is placed.

        Args:
            asked: Steps that will be asked about.
            held: Others that wait.
        """
        self._waits.clear()
        for task, ready in (*asked, *held):
            self._waits[task.key, task.attempt] = self._facts_of(task, ready)
        self._forget_moment()
        self._round_at = self._clock()

    def end_round(self) -> None:
        """Time goes on."""
        self._round_at = None
        self._forget_moment()

    def _forget_moment(self) -> None:
        self._home = self._machines = self._others = self._ended_then = None

    # ------------------------------------------------------------------ what happens

    def arrived(self) -> None:
        """A workflow was submitted."""
        self._arrivals.append(self._clock())
        self._forget_arrivals()  # a simple policy never asks how many they are

    def place(self, task: StepTask, place: str, node: str, ready: Ready | None = None) -> None:
        """An attempt has got its place."""
        run = RunFacts(
            task.target,
            task.priority,
            task.memory_gb,
            task.expected_seconds,
            self._clock(),
            self._history.of(task.key).out_of_memory,
            has_begun=place == LOCAL,
            workflow_id=task.workflow_id,
            ready=ready,
        )
        self._placed[task.key, task.attempt] = _Placed(run, place, node)
        self._waits.pop((task.key, task.attempt), None)
        self._others = None
        self._changed(place)

    def started(self, key: Key, node: str) -> None:
        """An attempt has begun on a node."""
        if (placed := self._placed.get(key)) is not None:
            placed.node, placed.is_known = node, True
            if not placed.run.has_begun:
                placed.run = replace(placed.run, since=self._clock(), has_begun=True)
            self._changed(placed.place)

    def ended(self, key: Key, seconds: float | None = None) -> tuple[EndedFacts, str] | None:
        """An attempt has ended.

        Args:
            key: Its step's, and its number.
            seconds: That it ran, where it ended well and that is known.

        Returns:
            What ran for so long, and its place; None where that is not known.
        """
        placed = self._placed.pop(key, None)
        self._waits.pop(key, None)
        if placed is None:
            return None
        self._changed(placed.place)
        run, is_on_machine = placed.run, placed.place == SPOT and placed.is_known
        if is_on_machine:
            self._done.setdefault(placed.node, set()).add(run.target)
        if seconds is None:
            return None
        facts = EndedFacts(run.target, run.expected_seconds, seconds, self._clock())
        if is_on_machine:
            self._ended.append(facts)
            self._ended_then = None
        return facts, placed.place

    def note_outcome(self, key: str, place: str, outcome: str, cause: str = "") -> None:
        """What became of an attempt, for the next one; see `AttemptHistory.note`."""
        self._history.note(key, place, outcome, cause, self._clock())

    def _changed(self, place: str) -> None:
        if place == LOCAL:
            self._home = None
        else:
            self._machines = None

    # ------------------------------------------------------------------ what there is

    def running(self, place: str) -> int:
        """Steps that are at a place or on their way."""
        return sum(one.place == place for one in self._placed.values())

    def known(self, task: StepTask, ready: Ready) -> StepFacts:
        """Of a step that waits; in a round always the same."""
        return self._waits.get((task.key, task.attempt)) or self._facts_of(task, ready)

    def _facts_of(self, task: StepTask, ready: Ready) -> StepFacts:
        past = self._history.of(task.key)
        return StepFacts(
            workflow_id=task.workflow_id,
            step=task.step,
            item=task.item,
            attempt=task.attempt,
            target=task.target,
            place=task.place,
            priority=task.priority,
            memory_gb=task.memory_gb,
            expected_seconds=task.expected_seconds,
            deadline=task.deadline,
            ready=ready,
            losses=past.losses,
            out_of_memory=past.out_of_memory,
        )

    def situation(self, task: StepTask, ready: Ready, *, may_wait: bool) -> Situation:
        """Everything about a step as it stands now, or in this round."""
        if self._round_at is None:
            self._forget_moment()
        now = self._clock() if self._round_at is None else self._round_at
        self._forget_arrivals()
        fleet, key = self._fleet, (task.key, task.attempt)
        step, others = self.known(task, ready), self._others_now()
        if key not in self._waits:
            others = (step, *others)
        return Situation(
            at=now,
            age=0.0 if fleet is None else fleet.age,
            may_wait=may_wait,
            step=step,
            home=self._home_now(),
            machines=self._machines_now(),
            money=None if fleet is None else fleet.money(),
            waiting=max(1, self.waiting()),
            arrivals=len(self._arrivals),
            has_cloud=fleet is not None and fleet.has_cloud,
            most_machines=0 if fleet is None else fleet.most_machines,
            machine_gb=0.0 if fleet is None else fleet.new_machine.memory_gb,
            others=others,
            ended=self._ended_now(now),
            killed=self._history.killed(now - _DAY),
        )

    def _forget_arrivals(self) -> None:
        oldest = self._clock() - _RECENT_SECONDS
        while self._arrivals and self._arrivals[0] < oldest:
            self._arrivals.popleft()

    def _others_now(self) -> tuple[StepFacts, ...]:
        if self._others is None:
            self._others = tuple(self._waits.values())[:MOST_OTHERS]
        return self._others

    def _ended_now(self, now: float) -> tuple[EndedFacts, ...]:
        if self._ended_then is None:
            self._ended_then = tuple(one for one in self._ended if one.at > now - _DAY)
        return self._ended_then

    def _home_now(self) -> HomeFacts:
        if self._home is None:
            home = self._head() if self._fleet is None else self._fleet.home()
            local = tuple(one.run for one in self._placed.values() if one.place == LOCAL)
            self._home = replace(home, runs=local)
        return self._home

    def _head(self) -> HomeFacts:
        free, percent = self._machine.memory()
        return HomeFacts(free / max(1.0 - percent / 100.0, 0.01), free, 1.0)

    def _machines_now(self) -> tuple[MachineFacts, ...]:
        if self._machines is None:
            fleet = self._fleet
            self._machines = () if fleet is None else tuple(self._with_runs(fleet))
        return self._machines

    def _with_runs(self, fleet: Fleet) -> Iterable[MachineFacts]:
        """Its machines; one that was just asked for is there before anybody has listed it."""
        found = list(fleet.machines())
        nodes = {machine.node for machine in found if machine.node}
        self._done = {node: done for node, done in self._done.items() if node in nodes}
        on_node: dict[str, list[RunFacts]] = {}
        coming: list[RunFacts] = []
        for one in self._placed.values():
            if one.place == SPOT:
                (on_node.setdefault(one.node, []) if one.node in nodes else coming).append(one.run)
        if coming and all(machine.node for machine in found):
            found.append(replace(fleet.new_machine, since=min(run.since for run in coming)))
        for machine in found:
            runs = on_node.get(machine.node, [])
            if not machine.node:
                runs, coming = coming, []
            done = frozenset(self._done.get(machine.node, ()))
            idle = None if runs else machine.idle_since
            yield replace(machine, runs=tuple(runs), done=done, idle_since=idle)
