"""When calls to a host leave, and how many messages each takes along. Pure.

A call of Ray costs as much as a dozen messages, so messages share calls, but none waits for company
while the host has nothing of ours. While it has, one more call leaves only for many messages or
after a moment: what comes meanwhile gathers. Many at once are parted over several calls, so that
the host works on some of them while this process deals with the answers to others.
"""

from __future__ import annotations

from dataclasses import dataclass

BATCH = 256
"""Most messages of a call."""
ENOUGH = 32
"""Messages that are worth a call of their own."""
CALLS = 4
"""Calls that are on their way at once; while they are, messages gather for the next."""
GAP_SECONDS = 0.002
"""Between two calls that leave with few messages, unless the host has answered all before."""


@dataclass(slots=True)
class Pace:
    """That of one process towards one host.

    Attributes:
        calls: those that are on their way.
        due: moment, of any monotonic clock, from which few messages are enough for one more.
    """

    calls: int = 0
    due: float = 0.0

    @property
    def free(self) -> int:
        """How many more calls may leave."""
        return CALLS - self.calls

    def next_batch(self, waiting: int, now: float) -> int:
        """How many messages leave together now; 0: none.

        Args:
            waiting: messages that could.
            now: of the clock of `due`.
        """
        if not waiting or self.free <= 0:
            return 0
        if self.calls and waiting < ENOUGH and now < self.due:
            return 0
        parts = max(1, min(self.free, waiting // ENOUGH))
        return min(BATCH, -(-waiting // parts))

    def left(self, now: float) -> None:
        """A call has left."""
        self.calls += 1
        self.due = now + GAP_SECONDS

    def returned(self) -> None:
        """One has come back, or is lost."""
        self.calls -= 1
