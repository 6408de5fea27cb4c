"""One timer for all workflows: retries that are due, deadlines that pass."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

LONGEST_SECONDS = 30.0
"""A timer of the event loop stands still while a laptop sleeps; the wall clock is looked at so
often while somebody waits for a later time."""

Key = TypeVar("Key")


class WakeUps(Generic[Key]):
    """Calls back at moments of the wall clock.

    Args:
        clock: Unix seconds.
        wake: Called with each key whose time has come.
    """

    def __init__(self, clock: Callable[[], float], wake: Callable[[Key], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._heap: list[tuple[float, int, Key]] = []
        self._at: dict[Key, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._pushed = 0

    def set(self, key: Key, at: float | None) -> None:
        """Wake that key then, and not when it was said before; None: not at all."""
        if at is None:
            self._at.pop(key, None)
        elif self._at.get(key) != at:
            self._at[key] = at
            self._pushed += 1
            heapq.heappush(self._heap, (at, self._pushed, key))
            self._arm()

    def close(self) -> None:
        """Nobody is woken any more."""
        self._at.clear()
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if not self._heap:
            return
        at = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        delay = min(max(at - self._clock(), 0.0), LONGEST_SECONDS)
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            at, _, key = heapq.heappop(self._heap)
            if self._at.get(key) == at:
                del self._at[key]
                self._wake(key)
        self._arm()
