"""What a richer routing policy is told: a step that is ready, and everything around it.

A `RouterPolicy` sees nine numbers and two places. A `SituationPolicy` sees this, may name a
machine, may let the step wait, and explains itself in full. All of it is facts; what is believed of
durations and hazards is the policy's own affair. Pure: no Ray, no store. Memory is in gigabytes
(1e9), times are Unix seconds, money is in US dollars.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from actors.workflow.tasks import StepTask
from ironcliw.schemas.base import Priority
from ironcliw.schemas.workflows import Place, StepKind

WAIT = "wait"
"""The place of a step that stays ready and is asked about again when something has changed."""

ROUTED: frozenset[StepKind] = frozenset({"function"})
"""Kinds of steps that a place is sought for; the others find their own."""

STALE_SECONDS = 60.0
"""Facts about machines and money that are older are not decided by."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Plan:
    """The steps of a definition, for paths through them; one object a workflow.

    Attributes:
        targets: Of each step: a function's name, or its kind where it has none.
        expected: Seconds that its author gave; None: none.
        dependents: Indices of the steps that need it; all are larger than its own.
        memory_gb: That its author gave; None: none; 0 of steps that find their own places. Empty:
            nobody has told.
    """

    targets: tuple[str, ...]
    expected: tuple[float | None, ...]
    dependents: tuple[tuple[int, ...], ...]
    memory_gb: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Ready:
    """How long a step is ready and where it stands in its workflow.

    Attributes:
        since: Unix seconds.
        plan: Of the workflow; None: not known.
        index: In the plan.
    """

    since: float
    plan: Plan | None = None
    index: int = 0


class Waiting(NamedTuple):
    """A step that is ready and has no place: its next attempt, and since when it waits."""

    task: StepTask
    ready: Ready


@dataclass(frozen=True, slots=True)
class StepFacts:
    """The step that a place is sought for: fields of `StepTask` and `Ready`, and its past.

    Attributes:
        losses: Machines that were lost under earlier attempts, with or without notice.
        out_of_memory: Attempts that were ended for want of memory.
    """

    workflow_id: str
    step: str
    item: int | None
    attempt: int
    target: str
    place: Place
    priority: Priority
    memory_gb: float | None
    expected_seconds: float | None
    deadline: float | None
    ready: Ready
    losses: int = 0
    out_of_memory: int = 0


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A step that has a place: it runs there, or is on its way; see `StepFacts`.

    Attributes:
        since: When it began; of one that has not, when it got its place.
        has_begun: False until a machine tells that it runs there.
        ready: Its place in its workflow; None: not known.
    """

    target: str
    priority: Priority
    memory_gb: float | None
    expected_seconds: float | None
    since: float
    out_of_memory: int = 0
    has_begun: bool = True
    workflow_id: str = ""
    ready: Ready | None = None


@dataclass(frozen=True, slots=True)
class EndedFacts:
    """A step that has ended well.

    Attributes:
        seconds: That it ran.
        at: Unix seconds of its end.
    """

    target: str
    expected_seconds: float | None
    seconds: float
    at: float


@dataclass(frozen=True, slots=True)
class HomeFacts:
    """The head: what it has, what is available now, and what runs there.

    Attributes:
        held_gb: By the processes of steps, of each function that runs; None: not known.
    """

    memory_gb: float
    available_gb: float
    cores: float
    runs: tuple[RunFacts, ...] = ()
    held_gb: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """A machine in the cloud.

    Attributes:
        node: Ray's id; empty while it starts.
        state: `leaving` once it got notice.
        since: When it was first seen; of one that starts, when it was ordered, if that is known.
        free_gb: That nothing on it has booked.
        idle_since: When it last had work; None: it has.
        done: Targets that it has run, so that what they load is there.
    """

    node: str
    state: Literal["booting", "ready", "leaving"]
    since: float
    memory_gb: float
    free_gb: float
    cores: float
    runs: tuple[RunFacts, ...] = ()
    idle_since: float | None = None
    done: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class MoneyFacts:
    """Money, and what is known of machines in general.

    Attributes:
        price_per_hour: Of a machine.
        day_cap: None: there is none.
        no_purchase: Why the ledger would refuse a machine now; empty: it would not.
        losses: Machines taken back in `exposed_hours`.
        boots: Seconds from order to joining, the newest.
        refused_at: When no machine was to be had, last; None: never, as far as is known.
    """

    price_per_hour: float
    day_spent: float = 0.0
    month_spent: float = 0.0
    day_cap: float | None = None
    month_cap: float | None = None
    no_purchase: str = ""
    losses: int = 0
    exposed_hours: float = 0.0
    boots: tuple[float, ...] = ()
    refused_at: float | None = None

    @property
    def day_left(self) -> float:
        """Of today's cap; infinite without one."""
        return math.inf if self.day_cap is None else self.day_cap - self.day_spent

    @property
    def month_left(self) -> float:
        """Of the month's; infinite without one."""
        return math.inf if self.month_cap is None else self.month_cap - self.month_spent


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything at a decision.

    Attributes:
        at: Unix seconds.
        age: Seconds since the facts of machines and money were read.
        may_wait: False where the step is asked about for the last time.
        waiting: Steps that are ready and have no place, this one included.
        arrivals: Workflows that came within 30 minutes.
        has_cloud: Whether there may be machines at all.
        most_machines: That there may be at once.
        machine_gb: That steps may hold of a new one.
        others: Steps that wait, `step` itself among them; where there are many, those that go
            first. Empty: nobody has told.
        ended: Of the last day, the newest last.
        killed: Unix seconds at which steps ran out of memory in the last day.
    """

    at: float
    age: float
    may_wait: bool
    step: StepFacts
    home: HomeFacts
    machines: tuple[MachineFacts, ...] = ()
    money: MoneyFacts | None = None
    waiting: int = 1
    arrivals: int = 0
    has_cloud: bool = False
    most_machines: int = 0
    machine_gb: float = 30.0
    others: tuple[StepFacts, ...] = ()
    ended: tuple[EndedFacts, ...] = ()
    killed: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """What a policy decided.

    Attributes:
        place: `local`, `spot` or `wait`.
        node: A machine that is preferred; empty: any.
        ask_again_at: Unix seconds by which a step that waits is asked about again.
        index: Into the options that the record names.
        options: Names of all options, and whether each was allowed.
        propensity: Probability with which this one was taken, above 0 and up to 1.
        reasons: In words, for people.
        policy: Name of what decided.
        features: The numbers that a simple policy would have seen.
        details: All else that the decision was made from, as JSON has it.
    """

    place: str
    node: str = ""
    ask_again_at: float | None = None
    index: int = 0
    options: tuple[tuple[str, bool], ...] = ()
    propensity: float = 1.0
    reasons: tuple[str, ...] = ()
    policy: str = ""
    features: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class SituationPolicy(Protocol):
    """A routing policy that is told everything. It answers at once and does no I/O."""

    name: str

    def place(self, situation: Situation) -> Placement:
        """Where a step goes, or that it waits, which only `may_wait` allows."""


@runtime_checkable
class OrderingPolicy(Protocol):
    """A `SituationPolicy` that says who is asked about first; of others they go as they came."""

    def in_order(self, steps: Sequence[StepFacts], at: float) -> Sequence[int]:
        """Each step's index once, the one to ask about first first.

        Args:
            steps: That wait, in the order of starts.
            at: Unix seconds.
        """


@runtime_checkable
class ObservingPolicy(Protocol):
    """A `SituationPolicy` that learns how long steps take while it is at work."""

    def ran(self, ended: EndedFacts, place: str) -> None:
        """A step has ended well.

        Args:
            ended: What ran, and how long.
            place: `local` or `spot`.
        """
