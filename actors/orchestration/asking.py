"""Asks a gate about steps that are ready: in rounds, in its order, and again while they wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, Protocol

from actors.orchestration.holding import ROUND, Holding
from actors.orchestration.live import LiveWorkflow
from actors.situation import ROUTED, Plan, Ready, Waiting
from actors.workflow.graph import Definition
from actors.workflow.tasks import StepTask
from actors.workflow.units import Unit

_MOST_PLANS = 256


class Gate(Protocol):
    """Says whether a step that is ready starts now."""

    def in_order(self, steps: Sequence[Waiting]) -> Sequence[int]:
        """The index of each, the one to ask about first first; they come in the order of starts."""
        ...

    def round(
        self, asked: Sequence[Waiting], held: Sequence[Waiting]
    ) -> AbstractContextManager[None]:
        """Around the questions of one moment.

        Args:
            asked: Those that are asked about.
            held: Others that wait; where there are many, those that go first.
        """
        ...

    def admit(self, task: StepTask, ready: Ready) -> float | None:
        """None: it starts. Else Unix seconds by which it is asked about again at the latest."""
        ...


class Entry(NamedTuple):
    """A unit that may be started.

    Attributes:
        live: its workflow.
        unit: it.
        since: Unix time since which it may.
        rank: its place in the order of starts, by when it became ready. By the monotonic clock:
            when the other steps back, all that is newer would go first.
    """

    live: LiveWorkflow
    unit: Unit
    since: float
    rank: float


class Asking:
    """About the steps of one orchestrator.

    Args:
        gate: That is asked.
        clock: Unix seconds.
        again: Told that it is time to ask about some that wait; it calls `take`.
    """

    def __init__(self, gate: Gate, clock: Callable[[], float], again: Callable[[], None]) -> None:
        self._gate = gate
        self._holding: Holding[Entry] = Holding(clock, again, self._preferred)
        self._held: dict[Entry, Waiting] = {}
        self._plans: dict[str, Plan] = {}
        self._left = 0

    def __len__(self) -> int:
        """Steps that wait, and those of a round that were not asked about yet."""
        return len(self._holding) + self._left

    def waiting(self, entry: Entry, task: StepTask) -> Waiting:
        """What the gate is told of a step."""
        unit, definition = entry.unit, entry.live.machine.definition
        plan = self._plans.get(definition.digest)
        if plan is None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            plan = self._plans[definition.digest] = plan_of(definition)
        return Waiting(task, Ready(entry.since, plan, unit.step.index))

    @contextmanager
    def round(self, asked: Sequence[Waiting]) -> Iterator[Iterator[int]]:
        """The indices of those to ask about, in the gate's order, as of one moment."""
        begun = time.perf_counter()
        held = [self._held[entry] for entry in self._holding.first(ROUND - len(asked))]
        try:
            with self._gate.round(asked, held):
                yield self._counted(self._gate.in_order(asked))
        finally:
            self._left = 0
            self._holding.took(time.perf_counter() - begun)

    def _counted(self, order: Sequence[int]) -> Iterator[int]:
        for number, index in enumerate(order):
            self._left = len(order) - number
            yield index

    def must_wait(self, entry: Entry, step: Waiting) -> bool:
        """Whether it is told to; it is asked about again then."""
        again = self._gate.admit(step.task, step.ready)
        if again is None:
            return False
        self._held[entry] = step
        self._holding.hold(entry, again, entry.rank)
        return True

    def something_happened(self) -> None:
        """Those that wait are asked about again, soon."""
        self._holding.something_happened()

    def take(self) -> list[Entry]:
        """Those to ask about now."""
        found = self._holding.take()
        for entry in found:
            del self._held[entry]
        return found

    def close(self) -> None:
        """Forget all."""
        self._holding.close()
        self._held.clear()

    def _preferred(self, entries: Sequence[Entry]) -> list[Entry]:
        order = self._gate.in_order([self._held[entry] for entry in entries])
        return [entries[index] for index in order]


def plan_of(definition: Definition) -> Plan:
    """The steps of a definition, for paths through them."""
    return Plan(
        targets=tuple(step.call.target or step.call.kind for step in definition.steps),
        expected=tuple(step.call.expected_seconds for step in definition.steps),
        dependents=tuple(step.dependents for step in definition.steps),
        memory_gb=tuple(
            step.call.memory_gb if step.call.kind in ROUTED else 0.0 for step in definition.steps
        ),
    )
