"""Asks the routing policy about a step, and remembers where steps are. No I/O.

Both kinds of policy are asked here: a `RouterPolicy` by its nine numbers, a `SituationPolicy` by
all that is known. The latter may fail, as it is loaded by name and may have been learned: the rules
of placement decide then, which is logged and counted.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from actors.attempt_history import AttemptHistory, Past
from actors.decision_log import Decided, DecisionLog
from actors.routing import (
    LOCAL,
    SPOT,
    Choice,
    Option,
    PlacementPolicy,
    RouterPolicy,
    checked,
    mask_of,
)
from actors.situation import (
    WAIT,
    HomeFacts,
    MachineFacts,
    MoneyFacts,
    Placement,
    Ready,
    RunFacts,
    Situation,
    SituationPolicy,
    StepFacts,
)
from actors.workflow.tasks import StepTask

logger = logging.getLogger(__name__)

_PRIORITIES = {"critical": 0.0, "high": 1.0, "normal": 2.0, "low": 3.0}
_RECENT_SECONDS = 1800.0
_MOST_WAITS = 10_000
_TOLD_EACH = 100
LONGEST_WAIT_SECONDS = 900.0
"""A step that waits is asked about again after it, whatever its policy said."""
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


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a step goes.

    Attributes:
        place: `local`, `spot` or `wait`.
        node: A machine that is preferred; empty: any.
        decision: Id of its row in the decision log; None: there is none.
        ask_again_at: Unix seconds by which a step that waits is asked about again.
    """

    place: str
    node: str = ""
    decision: str | None = None
    ask_again_at: float = 0.0


class Router:
    """Decides where steps go.

    Args:
        policy: Of either kind.
        machine: Facts for a simple one.
        fleet: Facts for the other kind; None: it is told of the head alone.
        log: Of its decisions.
        clock: Unix seconds.
    """

    def __init__(
        self,
        policy: RouterPolicy | SituationPolicy,
        machine: Machine,
        fleet: Fleet | None = None,
        log: DecisionLog | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policy = policy
        self._rules: RouterPolicy = (
            policy if isinstance(policy, RouterPolicy) else PlacementPolicy()
        )
        self._machine = machine
        self._fleet = fleet
        self._log = log
        self._clock = clock
        self._placed: dict[Key, _Placed] = {}
        self._waits: dict[str, tuple[tuple[str, bool], ...]] = {}
        self._done: dict[str, set[str]] = {}
        self._arrivals: deque[float] = deque()
        self._history = AttemptHistory()
        self.waiting: Callable[[], int] = lambda: 1
        self.failures = 0

    @property
    def may_wait(self) -> bool:
        """Whether this policy can let a step wait, so that it is asked before a step starts."""
        return isinstance(self._policy, SituationPolicy)

    def note_events(self, workflow_id: str, events: Iterable[object]) -> None:
        """Committed events of a workflow: its submission counts as an arrival."""
        del workflow_id
        if any(getattr(event, "kind", "") == "submitted" for event in events):
            self._arrivals.append(self._clock())
            self._forget_arrivals()  # a simple policy never asks how many they are

    # ------------------------------------------------------------------ deciding

    def ask(self, task: StepTask, ready: Ready, *, may_wait: bool) -> Routed:
        """Where that attempt goes; it counts as there from now on, unless it waits.

        Raises:
            UnavailableError: its place does not exist here.
            SettingsError: a simple policy breaks the protocol.
        """
        options = self._machine.options()
        mask = mask_of(task.place, options)
        if isinstance(self._policy, SituationPolicy):
            places = {option.name for option, free in zip(options, mask, strict=True) if free}
            routed = self._by_situation(self._policy, task, ready, places, may_wait)
            if routed is not None:
                return routed
        return self._by_rules(task, options, mask)

    def started(self, key: Key, node: str) -> None:
        """An attempt has begun on a node."""
        if (placed := self._placed.get(key)) is not None:
            placed.node, placed.is_known = node, True

    def ended(self, key: Key) -> None:
        """An attempt has ended, however."""
        placed = self._placed.pop(key, None)
        if placed is not None and placed.place == SPOT and placed.is_known:
            self._done.setdefault(placed.node, set()).add(placed.run.target)

    def note_outcome(self, key: str, place: str, outcome: str, cause: str = "") -> None:
        """What became of an attempt, for the next one; see `AttemptHistory.note`."""
        self._history.note(key, place, outcome, cause)

    def running(self, place: str) -> int:
        """Steps that are at a place or on their way."""
        return sum(one.place == place for one in self._placed.values())

    def _by_rules(self, task: StepTask, options: Sequence[Option], mask: Sequence[bool]) -> Routed:
        features = self.features(task)
        choice = checked(
            self._rules.decide(features, options, mask), options, mask, self._rules.name
        )
        self._place(task, options[choice.index].name, "")
        row = Decided(
            task.workflow_id, task.step, task.attempt, self._rules.name, features, options, mask,
            choice,
        )  # fmt: skip
        return Routed(options[choice.index].name, decision=self._note(row))

    def _by_situation(
        self,
        policy: SituationPolicy,
        task: StepTask,
        ready: Ready,
        places: set[str],
        may_wait: bool,
    ) -> Routed | None:
        places = places | {WAIT} if may_wait else places
        try:
            placement = _allowed(policy.place(self.situation(task, ready, may_wait)), places)
            decision = self._note_placement(task, placement)
        # the boundary to a policy that is loaded by name and may be learned: a step must have a
        # place whatever is wrong with it
        except Exception:
            self.failures += 1
            if self.failures % _TOLD_EACH == 1:
                logger.exception("routing policy %r failed; the rules decide", policy.name)
            return None
        if placement.place == WAIT:
            latest = self._clock() + LONGEST_WAIT_SECONDS
            again = latest if placement.ask_again_at is None else placement.ask_again_at
            return Routed(WAIT, "", decision, min(again, latest))
        self._waits.pop(task.key, None)
        self._place(task, placement.place, placement.node)
        return Routed(placement.place, placement.node, decision)

    def _place(self, task: StepTask, place: str, node: str) -> None:
        killed = self._history.of(task.key).out_of_memory
        run = RunFacts(
            task.target, task.priority, task.memory_gb, task.expected_seconds, self._clock(), killed
        )
        self._placed[task.key, task.attempt] = _Placed(run, place, node)

    # ------------------------------------------------------------------ facts

    def features(self, task: StepTask) -> dict[str, float]:
        """What a simple policy sees; see `RouterPolicy`."""
        free_gb, percent = self._machine.memory()
        left = math.inf if task.deadline is None else max(0.0, task.deadline - self._clock())
        return {
            "memory_gb": task.memory_gb or 0.0,
            "expected_seconds": task.expected_seconds or 0.0,
            "seconds_left": left,
            "priority": _PRIORITIES[task.priority],
            "attempt": float(task.attempt),
            "free_ram_gb": free_gb,
            "ram_percent": percent,
            **{f"running_{place}": float(self.running(place)) for place in (LOCAL, SPOT)},
        }

    def situation(self, task: StepTask, ready: Ready, may_wait: bool) -> Situation:
        """Everything about a step as it stands now."""
        now = self._clock()
        self._forget_arrivals()
        fleet = self._fleet
        home = self._head() if fleet is None else fleet.home()
        local = tuple(one.run for one in self._placed.values() if one.place == LOCAL)
        return Situation(
            at=now,
            age=0.0 if fleet is None else fleet.age,
            may_wait=may_wait,
            step=_facts(task, ready, self._history.of(task.key)),
            home=replace(home, runs=local),
            machines=() if fleet is None else tuple(self._machines(fleet)),
            money=None if fleet is None else fleet.money(),
            waiting=max(1, self.waiting()),
            arrivals=len(self._arrivals),
            has_cloud=fleet is not None and fleet.has_cloud,
            most_machines=0 if fleet is None else fleet.most_machines,
            machine_gb=0.0 if fleet is None else fleet.new_machine.memory_gb,
        )

    def _forget_arrivals(self) -> None:
        oldest = self._clock() - _RECENT_SECONDS
        while self._arrivals and self._arrivals[0] < oldest:
            self._arrivals.popleft()

    def _head(self) -> HomeFacts:
        free, percent = self._machine.memory()
        return HomeFacts(free / max(1.0 - percent / 100.0, 0.01), free, 1.0)

    def _machines(self, fleet: Fleet) -> Iterable[MachineFacts]:
        """With their runs; one that was just asked for is there before anybody has listed it."""
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

    # ------------------------------------------------------------------ the log

    def _note_placement(self, task: StepTask, placement: Placement) -> str | None:
        if placement.place == WAIT:
            # one that waits is asked at every event: a row where its choice has changed
            if self._waits.get(task.key) == placement.options:
                return None
            if len(self._waits) >= _MOST_WAITS:  # of steps that were cancelled while they waited
                self._waits.clear()
            self._waits[task.key] = placement.options
        options = [Option(name, allowed) for name, allowed in placement.options]
        mask = [allowed for _, allowed in placement.options]
        row = Decided(
            task.workflow_id, task.step, task.attempt, placement.policy, placement.features,
            options, mask, Choice(placement.index, placement.propensity, placement.reasons),
            placement.details,
        )  # fmt: skip
        return self._note(row)

    def _note(self, row: Decided) -> str | None:
        return None if self._log is None else self._log.note(row)


def _facts(task: StepTask, ready: Ready, past: Past) -> StepFacts:
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


def _allowed(placement: Placement, places: set[str]) -> Placement:
    """A placement, refused where it breaks the protocol: the caller takes the rules then."""
    if placement.place not in places:
        raise ValueError(f"place {placement.place!r} is not to be had; allowed are {places}")
    if not 0 < placement.propensity <= 1:
        raise ValueError(f"propensity {placement.propensity:g} is no probability above 0")
    if placement.options and not placement.options[placement.index][1]:
        raise ValueError(f"option {placement.options[placement.index][0]!r} was masked")
    return placement
