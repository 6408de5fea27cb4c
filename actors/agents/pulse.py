"""Since when an event loop stands still, seen from another thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Pulse:
    """Asks a loop for a sign of life; one question at a time is open.

    What counts is the first question that it has not answered, not the last that it has: nobody may
    have asked for a long time.

    Args:
        loop: of another thread.
        clock: monotonic seconds.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._asked_at: float | None = None

    def ask(self) -> None:
        """Have the loop answer when it turns next."""
        if self._asked_at is None:
            self._asked_at = self._clock()
            self._loop.call_soon_threadsafe(self._answer)

    @property
    def still_seconds(self) -> float:
        """Since when it owes an answer; 0: it does not."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else self._clock() - asked_at

    def _answer(self) -> None:
        self._asked_at = None
