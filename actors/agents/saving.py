"""Saves the states of agents that run, as often as they want it.

It goes on beside the watch, one save of a host at a time, in batches of bounded size: large states
and a slow store make saves late, and neither end a healthy host nor fill the control actor.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from actors.agents.hosts import HostHandle
from actors.agents.last_words import LastWords
from actors.agents.link import HostLostError
from actors.agents.snapshots import Snapshots
from actors.registry import Registry
from ironcliw.errors import IroncliwError

logger = logging.getLogger(__name__)

SNAPSHOT_SECONDS = 60.0
"""How long a host may take over the states of a batch."""
HOLD_SECONDS = 5.0
"""So long no plain method begins in an agent that was in the midst of one at its last turn."""
HOLD_AGAIN_SECONDS = 20 * HOLD_SECONDS
"""After a hold in vain, none for so long: the methods of such an agent would hardly begin."""
BATCH = 50
"""Agents whose states are asked for at once."""


class Saving:
    """Knows whose state is due, and has it saved.

    Args:
        registry: knows who is where.
        last_words: keeps states.
    """

    def __init__(self, registry: Registry, last_words: LastWords) -> None:
        self._registry = registry
        self._last_words = last_words
        self._saved_at: dict[str, float] = {}
        self._missed: set[str] = set()
        self._hold_from: dict[str, float] = {}  # after a hold in vain
        self._under_way: set[str] = set()

    def forget(self, name: str) -> None:
        """An agent is being stopped."""
        self._saved_at.pop(name, None)
        self._missed.discard(name)
        self._hold_from.pop(name, None)

    def due(self, host: str, names: Sequence[str]) -> list[str]:
        """Those of a host's agents that are due; none while a save of that host is under way."""
        if host in self._under_way:
            return []
        now = time.monotonic()
        return [name for name in names if self._is_due(name, now)]

    def _is_due(self, name: str, now: float) -> bool:
        if name not in self._registry:
            return False
        every = self._registry.get(name).spec.options.snapshot_seconds
        return every is not None and now - self._saved_at.setdefault(name, now) >= every

    async def save(self, handle: HostHandle, names: list[str]) -> None:
        """Save states of a host's agents; those that were not saved stay due."""
        self._under_way.add(handle.name)
        try:
            held = set(filter(self._may_hold, names))
            await self._save(handle, [name for name in names if name not in held], 0.0)
            await self._save(handle, [name for name in names if name in held], HOLD_SECONDS)
        except HostLostError as error:
            logger.info("host %s ended before its states were saved: %s", handle.name, error)
        except TimeoutError:
            words = "host %s does not give states within %g s; it is asked again"
            logger.error(words, handle.name, SNAPSHOT_SECONDS)
        except IroncliwError as error:  # such as a store that is away
            words = "states of agents on host %s are not saved, and are due again: %s"
            logger.error(words, handle.name, error)
        finally:
            self._under_way.discard(handle.name)

    def _may_hold(self, name: str) -> bool:
        return name in self._missed and time.monotonic() >= self._hold_from.get(name, 0.0)

    async def _save(self, handle: HostHandle, names: list[str], hold_seconds: float) -> None:
        while names:
            batch, names = names[:BATCH], names[BATCH:]
            before = self._registry.starts_on(handle.name, batch)
            async with asyncio.timeout(SNAPSHOT_SECONDS + hold_seconds):
                found = await handle.snapshots(batch, hold_seconds)
            # one that was started again meanwhile, perhaps there, has saved a newer one before
            after = self._registry.starts_on(handle.name, batch)
            batch = [name for name, start in before.items() if after.get(name) == start]
            states = {name: found.states[name] for name in batch if name in found.states}
            # without a limit: the journal does not take back what it was asked for
            if states:
                await self._last_words.save(states)
            self._note(batch, found, held=hold_seconds > 0)
            names = [*found.left, *names]

    def _note(self, names: list[str], found: Snapshots, *, held: bool) -> None:
        now, left = time.monotonic(), set(found.left)
        for name in names:
            if name in left or name not in self._registry:
                continue
            if name not in found.busy:
                self._missed.discard(name)
                self._saved_at[name] = now
            elif held:
                words = "agent %s: no state is saved, its method did not end within %g s"
                logger.warning(words, name, HOLD_SECONDS)
                self._hold_from[name] = now + HOLD_AGAIN_SECONDS
            else:  # it stays due, and has its state saved where a look finds it between two
                self._missed.add(name)
