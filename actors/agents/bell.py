"""Wakes all who wait for a change."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Bell:
    """Rings once for everybody who waits at that time."""

    def __init__(self) -> None:
        self.turn = asyncio.Event()
        """Set when it rings next; to be taken before one looks whether to wait."""

    def ring(self) -> None:
        """Wake all who wait."""
        turn, self.turn = self.turn, asyncio.Event()
        turn.set()

    async def next(self, turn: asyncio.Event, seconds: float) -> None:
        """Return when it has rung since `turn` was taken, or after `seconds`."""
        with suppress(TimeoutError):
            # not `wait_for`, which before Python 3.12 forgets that it was cancelled where it rings
            # at that moment
            async with asyncio.timeout(seconds):
                await turn.wait()
