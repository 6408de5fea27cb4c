"""Starts agents that somebody asks for, and leaves all as it was where that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from actors.agents.hosts import Hosts
from actors.agents.messages import checked_name
from actors.agents.options import Capability
from actors.agents.records import AgentStore
from actors.agents.rows import to_row
from actors.agents.running import Running
from actors.agents.spec import AgentSpec
from actors.agents.watching import Watching
from actors.registry import AgentStatus, Entry, Registry
from ironcliw.errors import ConflictError, StoreError

logger = logging.getLogger(__name__)


class Starting:
    """Starts agents.

    Args:
        registry: knows who there is.
        hosts: keeps their code.
        store: keeps them.
        running: puts them on hosts.
        watching: looks after them from then on.
        clock: Unix time.
    """

    def __init__(
        self,
        registry: Registry,
        hosts: Hosts,
        store: AgentStore,
        running: Running,
        watching: Watching,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._hosts = hosts
        self._store = store
        self._running = running
        self._watching = watching
        self._clock = clock

    async def start(self, spec: AgentSpec, capabilities: Mapping[str, Capability]) -> Entry:
        """See `AgentSystem.start_agent`."""
        checked_name(spec.name, "an agent")
        entry = Entry(spec, capabilities, AgentStatus.STARTING, self._clock())
        old = self._enter(entry)
        try:
            self._hosts.keep_code(spec.environment)
            # before it runs: it must not be forgotten by a head that ends now
            await self._store.save(to_row(entry))
            await self._running.start(spec.name)
        except BaseException:  # cancelled, too: a start that failed leaves all as it was
            await self._take_back(entry, old)
            raise
        self._watching.started(spec.name)
        return entry

    def _enter(self, entry: Entry) -> Entry | None:
        """Enter an agent, in place of one of its name that failed; returns that one."""
        old = self._registry.get(entry.name) if entry.name in self._registry else None
        if old is None or old.status is not AgentStatus.FAILED:
            self._registry.add(entry)  # says what is wrong
            return None
        self._watching.forget(entry.name)
        self._running.last_words.drop_parcels(entry.name)
        self._registry.remove(entry.name)
        try:
            self._registry.add(entry)
        except ConflictError:
            self._registry.add(old)
            raise
        return old

    async def _take_back(self, entry: Entry, old: Entry | None) -> None:
        if not self._registry.has(entry) or entry.status is not AgentStatus.STARTING:
            return  # somebody has stopped it meanwhile, or starts it again
        self._registry.remove(entry.name)
        try:
            if old is None:
                await self._store.remove(entry.name)
            else:  # it keeps its last state, and may be started again from it
                self._registry.add(old)
                await self._store.save(to_row(old))
        except StoreError as error:
            words = "agent %s did not start, and the next head will try again: %s"
            logger.error(words, entry.name, error)
