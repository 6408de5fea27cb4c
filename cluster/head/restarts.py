"""When a process that ended is started again: a pure rule."""

from __future__ import annotations

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 60.0
STABLE_SECONDS = 60.0


class Restarts:
    """The ends of one process: the first is followed by a start at once, more of them by pauses.

    The pauses double from a second to a minute. A process that lived for a minute is forgiven.
    """

    def __init__(self) -> None:
        self._ends = 0

    def pause(self, lived_seconds: float) -> float:
        """Seconds from an end until the next start."""
        if lived_seconds >= STABLE_SECONDS:
            self._ends = 0
        # an exponent without a bound would overflow after a thousand ends
        doubled = 0.0 if self._ends == 0 else FIRST_SECONDS * 2.0 ** min(self._ends - 1, 30)
        self._ends += 1
        return min(LONGEST_SECONDS, doubled)
