"""An attempt's seat among those that run at once, which it gives up while it only waits.

What waits for something that may take a day, such as an agent that is not there, would otherwise
keep everything else from starting.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Seat(Protocol):
    """Of one attempt."""

    def leave(self) -> None:
        """Somebody else may have it."""
        ...

    def take(self) -> None:
        """Have it back at once, even if there is one too many for a while."""
        ...


SEAT: ContextVar[Seat] = ContextVar("ironcliw_seat")
"""Of the attempt that the running task works for; not set: nobody counts it."""


@contextmanager
def without_seat() -> Iterator[None]:
    """Let others start while the block waits."""
    seat = SEAT.get(None)
    if seat is None:
        yield
        return
    seat.leave()
    try:
        yield
    finally:
        seat.take()
