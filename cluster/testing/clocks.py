"""The time of a world: the system's, or one that a test moves by hand."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the epoch, and a way to let them pass."""

    def __call__(self) -> float:
        """Seconds since the epoch."""

    def sleep(self, seconds: float) -> None:
        """Return when the seconds have passed."""


class SystemClock:
    """The machine's own time."""

    def __call__(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class ManualClock:
    """Time that passes only when somebody says so; safe to share between threads.

    `sleep` returns at once and moves the time on, so that whoever waits for an operation sees it
    done: a test of minutes takes milliseconds and always takes the same path.

    Args:
        start: Seconds since the epoch; by default 2026-01-15 12:00 UTC, well inside a month.
    """

    def __init__(self, start: float = 1768478400.0) -> None:
        self._now = start
        self._lock = threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            return self._now

    def advance(self, seconds: float) -> float:
        """Move the time on; returns the new one.

        Raises:
            ValueError: The seconds are negative.
        """
        if seconds < 0:
            raise ValueError(f"the time cannot go back by {-seconds} s: advance by 0 or more")
        with self._lock:
            self._now += seconds
            return self._now

    def sleep(self, seconds: float) -> None:
        self.advance(max(0.0, seconds))
