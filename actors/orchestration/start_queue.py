"""Which of the steps that may be started comes next: by priority, and nobody starves."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Generic, TypeVar

from ironcliw.schemas.base import Priority

PRIORITIES: tuple[Priority, ...] = ("critical", "high", "normal", "low")
"""Their indices are what the store holds."""
HANDICAP: Mapping[Priority, float] = {"critical": 0, "high": 60, "normal": 300, "low": 1500}
"""Seconds: a normal step goes before critical ones that came over 300 s later: nobody starves."""
CROWD_SECONDS = 0.1
"""Each step of the same workflow that is queued or runs counts as so many seconds: a workflow of
thousands of items lets others in between."""

Entry = TypeVar("Entry")


def rank_of(priority: Priority, now: float, ahead: int) -> float:
    """The place of a step that becomes ready; the lower goes first.

    Args:
        priority: Of its workflow.
        now: Seconds of any clock, always the same one.
        ahead: Steps of the same workflow that are queued or run.
    """
    return now + HANDICAP[priority] + CROWD_SECONDS * ahead


class StartQueue(Generic[Entry]):
    """A heap of entries, by rank; of those of the same rank the first comes first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Entry]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, entry: Entry, rank: float) -> None:
        """Queue an entry; see `rank_of`."""
        self._pushed += 1
        heapq.heappush(self._heap, (rank, self._pushed, entry))

    def pop(self) -> Entry:
        """Takes the first; there is one."""
        return heapq.heappop(self._heap)[2]

    def clear(self) -> None:
        """Forgets all entries."""
        self._heap.clear()
