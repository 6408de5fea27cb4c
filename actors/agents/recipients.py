"""Those whom durable messages are for: whether they are there, and whose turn it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from actors.agents.memory import Memory
from ironcliw.errors import NotFoundError, UnavailableError

logger = logging.getLogger(__name__)

TOGETHER = 64
"""Messages of a priority that are on their way to one recipient at once."""
_WAIT_SECONDS = 30.0
_PAUSE_SECONDS = 1.0
"""Before one that was given up is looked for again."""


@dataclass(slots=True)
class _Gate:
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(TOGETHER))
    users: int = 0


class Recipients:
    """Agents' names and capabilities to which messages go.

    However many messages wait for one that is not there, it is looked for once.

    Args:
        memory: knows who is there.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._gates: dict[tuple[str, int], _Gate] = {}
        self._searches: dict[str, asyncio.Task[None]] = {}

    async def is_there(self, recipient: str) -> bool:
        """Whether an agent takes messages for it now."""
        try:
            await self._memory.look_up(recipient)
        except (NotFoundError, UnavailableError):
            return False
        return True

    async def wait_for(self, recipient: str) -> None:
        """Return once an agent takes messages for it."""
        if await self.is_there(recipient):
            return
        search = self._searches.get(recipient)
        if search is None:
            search = self._searches[recipient] = asyncio.create_task(self._search(recipient))
            search.add_done_callback(lambda _: self._searches.pop(recipient, None))
        await asyncio.shield(search)

    @asynccontextmanager
    async def turn(self, recipient: str, priority: int) -> AsyncIterator[None]:
        """Wait for one's turn among the messages of the same priority, and have it meanwhile.

        Those of another priority do not stand in the way: their order is the mailbox's affair.
        """
        gate = self._gates.setdefault((recipient, priority), _Gate())
        gate.users += 1
        try:
            async with gate.slots:
                yield
        finally:
            gate.users -= 1
            if not gate.users:
                del self._gates[recipient, priority]

    async def close(self) -> None:
        """Look for nobody any more."""
        searches = list(self._searches.values())
        for search in searches:
            search.cancel()
        await asyncio.gather(*searches, return_exceptions=True)

    async def _search(self, recipient: str) -> None:
        while True:
            try:
                await self._memory.look_up(recipient, _WAIT_SECONDS, unknown_seconds=_WAIT_SECONDS)
                return
            except (NotFoundError, UnavailableError) as error:
                logger.info("durable messages wait for %s: %s", recipient, error)
            await asyncio.sleep(_PAUSE_SECONDS)
