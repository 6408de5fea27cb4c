"""Which faults act now: a pure state machine that the world asks and tells what happened."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from cluster.testing.faults import EventKind, Fault, Hook, Preempt

F = TypeVar("F", bound=Fault)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in the world, at seconds since the epoch."""

    at: float
    kind: EventKind
    zone: str
    name: str


@dataclass(slots=True)
class _Entry:
    fault: Fault
    begins: float
    """Infinite until the event was seen that it waits for."""
    seen: int = 0
    used: int = 0
    cause: Event | None = None

    def is_active(self, now: float) -> bool:
        over = self.fault.times is not None and self.used >= self.fault.times
        return self.begins <= now < self.begins + self.fault.seconds and not over


class FaultPlan:
    """The faults of a world and how far each has come.

    Args:
        faults: Those that are known from the beginning.
        start: When the world began, seconds since the epoch.
    """

    def __init__(self, faults: Iterable[Fault], start: float) -> None:
        self._entries: list[_Entry] = []
        for fault in faults:
            self.add(fault, start)

    def add(self, fault: Fault, now: float) -> None:
        """Add a fault; its `at` counts from now."""
        begins = now + fault.at if fault.when is None else math.inf
        self._entries.append(_Entry(fault, begins))

    def remove(self, fault: Fault) -> None:
        """End a fault; nothing happens when it is not there."""
        self._entries = [entry for entry in self._entries if entry.fault != fault]

    def saw(self, event: Event) -> None:
        """Begin the faults that waited for this event."""
        for entry in self._entries:
            fault = entry.fault
            if fault.when != event.kind or not fault.matches(event.zone, event.name):
                continue
            entry.seen += 1
            if entry.seen == fault.count:
                entry.begins = event.at + fault.at
                entry.cause = event

    def active(self, kind: type[F], now: float, zone: str = "", name: str = "") -> F | None:
        """The first fault of a kind that acts now on a zone and name, without using it up."""
        entry = self._find(kind, now, zone, name)
        return entry.fault if entry and isinstance(entry.fault, kind) else None

    def use(self, kind: type[F], now: float, zone: str = "", name: str = "") -> F | None:
        """As `active`, and one of its `times` is spent."""
        entry = self._find(kind, now, zone, name)
        if entry is None or not isinstance(entry.fault, kind):
            return None
        entry.used += 1
        return entry.fault

    def all_active(self, kind: type[F], now: float) -> list[F]:
        """All faults of a kind that act now."""
        return [
            entry.fault
            for entry in self._entries
            if isinstance(entry.fault, kind) and entry.is_active(now)
        ]

    def next_act(self) -> float:
        """When the next preemption or hook is due; infinite when none is."""
        return min((entry.begins for entry in self._acts()), default=math.inf)

    def due(self, now: float) -> list[tuple[Preempt | Hook, Event | None]]:
        """The preemptions and hooks to carry out now, each once, with the event they waited for."""
        found: list[tuple[Preempt | Hook, Event | None]] = []
        for entry in self._acts():
            if entry.begins <= now and isinstance(entry.fault, Preempt | Hook):
                entry.used += 1
                found.append((entry.fault, entry.cause))
        return found

    def _acts(self) -> list[_Entry]:
        return [
            entry
            for entry in self._entries
            if isinstance(entry.fault, Preempt | Hook) and not entry.used
        ]

    def _find(self, kind: type[Fault], now: float, zone: str, name: str) -> _Entry | None:
        for entry in self._entries:
            fault = entry.fault
            if isinstance(fault, kind) and entry.is_active(now) and fault.matches(zone, name):
                return entry
        return None
