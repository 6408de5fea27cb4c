"""Senders who wait for room in a full mailbox."""

from __future__ import annotations

import asyncio
from collections import deque

from ironcliw.errors import IroncliwError


class Room:
    """A queue of senders. Whoever is let in puts its message, and lets the next in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __bool__(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    async def turn(self, seconds: float | None) -> None:
        """Wait until one is let in.

        Args:
            seconds: how long; None: for ever.

        Raises:
            TimeoutError: it took longer.
            IroncliwError: nobody will be let in any more; see `refuse`.
        """
        place: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(seconds):
                await place
        except BaseException:  # cancelled or late: the place is given on
            if place in self._waiting:
                self._waiting.remove(place)
            elif not place.cancelled() and place.exception() is None:
                self.let_in()  # it was let in just before it gave up: somebody else may
            raise

    def let_in(self) -> None:
        """There is room for one."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return

    def refuse(self, error: IroncliwError) -> None:
        """There will never be room."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(error)
