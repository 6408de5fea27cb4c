"""Circuits that processes outside of agents' hosts have open, such as those of jobs.

Hosts are asked for theirs. Nobody can ask a job: it tells the control actor whenever a circuit of
its own opens, is tried or closes. What it told holds until the pause is over and a while beyond, so
that a job which has ended without a word is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from actors.breaker import Breakers, OpenCircuit
from ironcliw.errors import IroncliwError

logger = logging.getLogger(__name__)

KEPT_SECONDS = 60.0
"""Beyond its pause: a trial may take long, and whoever asks seldom tries late."""
_LAST_WORD_SECONDS = 1.0


@dataclass(slots=True)
class ToldCircuits:
    """What processes have told of theirs. Pure."""

    _told: dict[str, tuple[float, tuple[OpenCircuit, ...]]] = field(default_factory=dict)

    def tell(self, process: str, circuits: Sequence[OpenCircuit], now: float) -> None:
        """Take a process's open circuits in place of those of before.

        Args:
            process: named unlike any other.
            circuits: all that are open there.
            now: of any monotonic clock, the same at each call.
        """
        self._told[process] = now, tuple(circuits)
        open_now = {one for one, _ in self.open_now(now)}
        self._told = {one: told for one, told in self._told.items() if one in open_now}

    def open_now(self, now: float) -> Iterator[tuple[str, OpenCircuit]]:
        """Process and circuit, with the pause that is left of it."""
        for process, (at, circuits) in self._told.items():
            for one in circuits:
                left = at + one.seconds - now
                if left > -KEPT_SECONDS:
                    yield process, replace(one, seconds=max(0.0, left))


class CircuitTeller:
    """Tells of this process's circuits.

    Args:
        breakers: them; their `on_change` is taken.
        tell: how: it is given all that are open.
    """

    def __init__(
        self, breakers: Breakers, tell: Callable[[list[OpenCircuit]], Awaitable[None]]
    ) -> None:
        self._breakers = breakers
        self._tell = tell
        self._changed = False
        self._task: asyncio.Task[None] | None = None
        self._has_told = False
        breakers.on_change = self._on_change

    def close(self) -> None:
        """Tell nothing more."""
        self._breakers.on_change = lambda: None
        if self._task is not None:
            self._task.cancel()

    async def last_word(self) -> None:
        """This process asks nobody any more: tell so, if anybody would think otherwise."""
        self.close()
        if self._has_told:
            try:
                async with asyncio.timeout(_LAST_WORD_SECONDS):
                    await self._tell([])
            except (IroncliwError, TimeoutError) as error:
                logger.info("open circuits are not taken back: %s", error)

    def _on_change(self) -> None:
        self._changed = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._until_told())

    async def _until_told(self) -> None:
        """One after the other, so that the last that is told is how they stand."""
        while self._changed:
            self._changed, self._has_told = False, True
            now = asyncio.get_running_loop().time()
            try:
                await self._tell(self._breakers.open_now(now))
            except IroncliwError as error:  # `agents breakers` lacks them, and nothing else
                logger.info("open circuits are not told: %s", error)
