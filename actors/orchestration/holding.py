"""Steps that are ready and were told to wait for a better moment: asked about again on events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from actors.situation import Plan, Ready
from actors.workflow.graph import Definition
from actors.workflow.tasks import StepTask

ROUND = 64
"""At most so many are asked about again at once; the others have their turn at the next event."""
PAUSE_SECONDS = 0.2
"""Events that come within it are one: many steps that end together must not ask as often."""
_LEAST_SECONDS = 1.0
# a timer of the event loop stands still while a laptop sleeps
_LONGEST_SECONDS = 60.0

Entry = TypeVar("Entry")


class Gate(Protocol):
    """Says whether a step that is ready starts now."""

    def admit(self, task: StepTask, ready: Ready) -> float | None:
        """None: it starts. Else Unix seconds by which it is asked about again at the latest."""
        ...


class Holding(Generic[Entry]):
    """What waits.

    Args:
        clock: Unix seconds.
        again: Told that it is time to ask; it calls `take`.
    """

    def __init__(self, clock: Callable[[], float], again: Callable[[], None]) -> None:
        self._clock = clock
        self._again = again
        self._held: dict[Entry, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, entry: Entry, at: float) -> None:
        """Keep one until something happens, or until then, which is a second from now or more."""
        at = max(at, self._clock() + _LEAST_SECONDS)
        self._held.pop(entry, None)  # so that those which were asked about longest ago come first
        self._held[entry] = at
        self._arm(at)

    def something_happened(self) -> None:
        """Ask again soon."""
        if self._held:
            self._arm(self._clock() + PAUSE_SECONDS)

    def take(self) -> list[Entry]:
        """Those to ask about now."""
        taken = list(self._held)[:ROUND]
        for entry in taken:
            del self._held[entry]
        if self._held:
            self._arm(min(self._held.values()))
        return taken

    def close(self) -> None:
        """Forget all."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        delay = min(max(at - self._clock(), 0.0), _LONGEST_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._timer_at = float("inf")
        if self._held:
            self._again()


def plan_of(definition: Definition) -> Plan:
    """The steps of a definition, for paths through them."""
    return Plan(
        targets=tuple(step.call.target or step.call.kind for step in definition.steps),
        expected=tuple(step.call.expected_seconds for step in definition.steps),
        dependents=tuple(step.dependents for step in definition.steps),
    )
