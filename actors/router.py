"""Asks the routing policy about a step, and remembers where steps are. No I/O.

Both kinds of policy are asked here: a `RouterPolicy` by its nine numbers, a `SituationPolicy` by
all that is known. The latter may fail, as it is loaded by name and may have been learned: the rules
of placement decide then, which is logged and counted.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

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
    ObservingPolicy,
    OrderingPolicy,
    Placement,
    Ready,
    Situation,
    SituationPolicy,
    Waiting,
)
from actors.surroundings import Fleet, Key, Machine, Surroundings
from actors.workflow.tasks import StepTask

logger = logging.getLogger(__name__)

_PRIORITIES = {"critical": 0.0, "high": 1.0, "normal": 2.0, "low": 3.0}
_MOST_WAITS = 10_000
_TOLD_EACH = 100
LONGEST_WAIT_SECONDS = 900.0
"""A step that waits is asked about again after it, whatever its policy said."""


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
        self._log = log
        self._clock = clock
        self._around = Surroundings(machine, fleet, clock)
        self._waits: dict[str, tuple[tuple[str, bool], ...]] = {}
        self.failures = 0

    @property
    def waiting(self) -> Callable[[], int]:
        """Says how many steps are ready and have no place."""
        return self._around.waiting

    @waiting.setter
    def waiting(self, count: Callable[[], int]) -> None:
        self._around.waiting = count

    @property
    def may_wait(self) -> bool:
        """Whether this policy can let a step wait, so that it is asked before a step starts."""
        return isinstance(self._policy, SituationPolicy)

    def note_events(self, workflow_id: str, events: Iterable[object]) -> None:
        """Committed events of a workflow: its submission counts as an arrival."""
        del workflow_id
        if any(getattr(event, "kind", "") == "submitted" for event in events):
            self._around.arrived()

    # ------------------------------------------------------------------ deciding

    @contextmanager
    def round(self, asked: Sequence[Waiting], held: Sequence[Waiting]) -> Iterator[None]:
        """Steps are asked about one after the other, as of one moment.

        Args:
            asked: They.
            held: Others that wait.
        """
        self._around.begin_round(asked, held)
        try:
            yield
        finally:
            self._around.end_round()

    def in_order(self, steps: Sequence[Waiting]) -> Sequence[int]:
        """Indices of steps that wait, the one to ask about first first; as they come, by default.

        Args:
            steps: In the order of starts.
        """
        policy, came = self._policy, range(len(steps))
        if len(steps) < 2 or not isinstance(policy, OrderingPolicy):
            return came
        facts = [self._around.known(task, ready) for task, ready in steps]
        try:
            found = list(policy.in_order(facts, self._clock()))
            if sorted(found) != list(came):
                raise ValueError(f"its order {found} has not each of {len(steps)} steps once")
        # the boundary to a policy that is loaded by name: nobody may be left out by its fault
        except Exception:
            if self._has_failed():
                logger.exception("routing policy %r failed to say who goes first", policy.name)
            return came
        return found

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
        return self._by_rules(task, ready, options, mask)

    def started(self, key: Key, node: str) -> None:
        """An attempt has begun on a node."""
        self._around.started(key, node)

    def ended(self, key: Key, seconds: float | None = None) -> None:
        """An attempt has ended, however; it ran so long, where it ended well and that is known."""
        told = self._around.ended(key, seconds)
        if told is None or not isinstance(self._policy, ObservingPolicy):
            return
        try:
            self._policy.ran(*told)
        # the boundary to a policy that is loaded by name: a step that has ended has ended
        except Exception:
            if self._has_failed():
                logger.exception("routing policy %r failed to learn", self._policy.name)

    def note_outcome(self, key: str, place: str, outcome: str, cause: str = "") -> None:
        """What became of an attempt, for the next one; see `AttemptHistory.note`."""
        self._around.note_outcome(key, place, outcome, cause)

    def running(self, place: str) -> int:
        """Steps that are at a place or on their way."""
        return self._around.running(place)

    def _by_rules(
        self, task: StepTask, ready: Ready, options: Sequence[Option], mask: Sequence[bool]
    ) -> Routed:
        features = self.features(task)
        choice = checked(
            self._rules.decide(features, options, mask), options, mask, self._rules.name
        )
        self._around.place(task, options[choice.index].name, "", ready)
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
            if self._has_failed():
                logger.exception("routing policy %r failed; the rules decide", policy.name)
            return None
        if placement.place == WAIT:
            latest = self._clock() + LONGEST_WAIT_SECONDS
            again = latest if placement.ask_again_at is None else placement.ask_again_at
            return Routed(WAIT, "", decision, min(again, latest))
        self._waits.pop(task.key, None)
        self._around.place(task, placement.place, placement.node, ready)
        return Routed(placement.place, placement.node, decision)

    def _has_failed(self) -> bool:
        """Count it; whether it is to be told."""
        self.failures += 1
        return self.failures % _TOLD_EACH == 1

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
        return self._around.situation(task, ready, may_wait=may_wait)

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


def _allowed(placement: Placement, places: set[str]) -> Placement:
    """A placement, refused where it breaks the protocol: the caller takes the rules then."""
    if placement.place not in places:
        raise ValueError(f"place {placement.place!r} is not to be had; allowed are {places}")
    if not 0 < placement.propensity <= 1:
        raise ValueError(f"propensity {placement.propensity:g} is no probability above 0")
    if placement.options and not placement.options[placement.index][1]:
        raise ValueError(f"option {placement.options[placement.index][0]!r} was masked")
    return placement
