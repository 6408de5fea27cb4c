"""Units that wait for their next attempt, the earliest first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from actors.workflow.units import Unit


class Waiting:
    """A heap; a unit whose status or time has changed meanwhile leaves an entry that is ignored."""

    __slots__ = ("_count", "_heap", "_pushed")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Unit]] = []
        self._count = 0
        self._pushed = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Unit]:
        return (unit for at, _, unit in self._heap if unit.retry_at == at)

    def push(self, unit: Unit, at: float) -> None:
        """The unit waits until then."""
        unit.status, unit.retry_at = "waiting", at
        self._count += 1
        self._pushed += 1
        heapq.heappush(self._heap, (at, self._pushed, unit))

    def discard(self, unit: Unit) -> None:
        """The unit does not wait any more, if it did."""
        if unit.retry_at is not None:
            unit.retry_at = None
            self._count -= 1

    def clear(self) -> None:
        """Nobody waits any more."""
        for unit in self:
            unit.retry_at = None
        self._heap.clear()
        self._count = 0

    def next_at(self) -> float | None:
        """When the first is due."""
        while self._heap and self._heap[0][2].retry_at != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Iterator[Unit]:
        """Takes those whose time has come."""
        while (at := self.next_at()) is not None and at <= now:
            unit = heapq.heappop(self._heap)[2]
            self.discard(unit)
            yield unit
