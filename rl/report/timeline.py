"""One day as it went: which step ran where and when, and when there were machines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rl.mechanics import Mechanics
from rl.outcome import Outcome
from rl.simulator import Policy, Simulation
from rl.sites import Machine, Task
from rl.work import Day

AT_HOME = -1


@dataclass(slots=True)
class Span:
    """A step at a place: -1 is the head, the others are slots; seconds after midnight."""

    place: int
    kind: str
    begin: float
    end: float = 0.0
    ended: bool = True
    row: int = 0


@dataclass(slots=True)
class Life:
    """A machine, from its order until nobody pays for it any more.

    Attributes:
        ready: When it took steps; its end where it never did.
        was_lost: Whether it was taken back.
    """

    slot: int
    begin: float
    ready: float = 0.0
    end: float = 0.0
    was_lost: bool = False


@dataclass(slots=True)
class Timeline:
    """All of a day.

    Attributes:
        arrivals: Of workflows.
        missed: Deadlines that passed before their workflow's end.
    """

    spans: list[Span]
    lives: list[Life]
    arrivals: list[float]
    missed: list[float]
    outcome: Outcome


@dataclass
class _Notes:
    spans: list[Span] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    open: dict[int, Span] = field(default_factory=dict)
    there: dict[int, Life] = field(default_factory=dict)


class Recorder(Mechanics):
    """The laws of a day, with a record of what they did."""

    def __init__(self, day: Day, month_spent: float) -> None:
        self.notes = _Notes()
        super().__init__(day, month_spent)

    def start_at_home(self, task: Task) -> None:
        """See `Mechanics`."""
        self._begin(task, AT_HOME)
        super().start_at_home(task)

    def make_ready(self, task: Task) -> None:
        """See `Mechanics`; a step that ran was lost."""
        self._close(task, ended=False)
        super().make_ready(task)

    def finish(self, task: Task) -> None:
        """See `Mechanics`."""
        self._close(task, ended=True)
        super().finish(task)

    def buy(self) -> Machine:
        """See `Fleet`."""
        machine = super().buy()
        if machine.is_real:
            self.notes.there[machine.slot] = Life(machine.slot, self.now)
        return machine

    def leave(self, machine: Machine) -> None:
        """See `Fleet`."""
        life = self.notes.there.pop(machine.slot, None)
        if life is not None:
            life.end = self.now
            life.ready = life.ready or self.now
            life.was_lost = machine.is_leaving
            self.notes.lives.append(life)
        super().leave(machine)

    def _ready(self, machine: Machine) -> None:
        if not machine.is_leaving:
            self.notes.there[machine.slot].ready = self.now
        super()._ready(machine)

    def _start(self, machine: Machine, task: Task) -> None:
        self._begin(task, machine.slot)
        super()._start(machine, task)

    def _begin(self, task: Task, place: int) -> None:
        self.notes.open[task.step.number] = Span(place, task.step.kind, self.now)

    def _close(self, task: Task, *, ended: bool) -> None:
        span = self.notes.open.pop(task.step.number, None)
        if span is not None:
            span.end, span.ended = self.now, ended
            self.notes.spans.append(span)


def record(day: Day, policy: Policy) -> Timeline:
    """Run a day with a policy, and note what happens."""
    simulation = Simulation(day, order=policy.order, mechanics=Recorder)
    while (decision := simulation.next_decision()) is not None:
        simulation.take(policy.choose(decision.view, decision.mask), policy.name)
    outcome, world = simulation.outcome(), simulation.world
    assert isinstance(world, Recorder)
    spans = sorted(world.notes.spans, key=lambda span: (span.begin, span.place, span.end))
    _stack(spans)
    missed = [
        one.deadline
        for one in day.workflows
        if world.finished.get(one.number, day.until) > one.deadline
    ]
    arrivals = [one.arrival for one in day.workflows]
    return Timeline(spans, world.notes.lives, arrivals, missed, outcome)


def _stack(spans: Iterable[Span]) -> None:
    """Give spans of a place that overlap rows of their own, the lowest that is free."""
    free: dict[int, list[float]] = {}
    for span in spans:
        rows = free.setdefault(span.place, [])
        row = next((row for row, until in enumerate(rows) if until <= span.begin), len(rows))
        if row == len(rows):
            rows.append(0.0)
        rows[row] = span.end
        span.row = row
