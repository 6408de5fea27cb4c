"""What agents leave behind where they stop: their states, and the messages that they had accepted.

Both are kept here until the agent runs again, the states until the store has them: a store that is
away when a machine ends must not cost an agent its state.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from actors.agents.messages import Parcel
from actors.agents.records import AgentStore
from ironcliw.errors import StoreError, UnavailableError

logger = logging.getLogger(__name__)


class LastWords:
    """States and messages of agents that run nowhere now.

    Args:
        store: has the states, sooner or later.
    """

    def __init__(self, store: AgentStore) -> None:
        self._store = store
        self._states: dict[str, bytes] = {}  # that the store has not taken
        self._parcels: dict[str, tuple[float, list[Parcel]]] = {}

    async def save(self, states: Mapping[str, bytes]) -> None:
        """Have the store keep states.

        Raises:
            StoreError: it is away.
        """
        older = {name: self._states[name] for name in states if name in self._states}
        await self._store.save_snapshots(states)
        for name, state in older.items():
            if self._states.get(name) is state:  # none that came meanwhile
                del self._states[name]

    async def keep(self, name: str, state: bytes | None) -> None:
        """Keep the last state of an agent that has stopped; None: it gave none.

        It is safe from the end of the agent's machine on return, and from that of this process
        unless the store is away.
        """
        if state is None:
            return
        self._states[name] = state
        await self.save_kept(name)

    async def save_kept(self, name: str) -> None:
        """Have the store keep an agent's state, if it has not taken it yet; see `keep`."""
        if (state := self._states.get(name)) is None:
            return
        try:
            await self._store.save_snapshots({name: state})
        except StoreError as error:
            logger.error("the store does not take the last state of agent %s: %s", name, error)
            return
        if self._states.get(name) is state:
            del self._states[name]

    def is_unsaved(self, name: str) -> bool:
        """Whether the store has not taken an agent's last state."""
        return name in self._states

    async def state_of(self, name: str) -> bytes | None:
        """The last state of an agent.

        Raises:
            UnavailableError: the store is away; the agent has no part in it.
        """
        if (state := self._states.get(name)) is not None:
            return state
        try:
            return await self._store.snapshot(name)
        except StoreError as error:
            raise UnavailableError(
                f"the last state of agent {name!r} cannot be read: {error}", retry_after=1.0
            ) from error

    def carry(self, name: str, parcels: list[Parcel]) -> None:
        """Keep what an agent had accepted at its old place until it has been started again."""
        if parcels:
            self._parcels[name] = time.monotonic(), [*self.take_parcels(name), *parcels]

    def take_parcels(self, name: str) -> list[Parcel]:
        """What was carried, with the deadlines that are left; it is no longer kept."""
        since, parcels = self._parcels.pop(name, (0.0, []))
        waited = time.monotonic() - since
        for parcel in parcels:
            if parcel.seconds_left is not None:
                parcel.seconds_left = max(0.0, parcel.seconds_left - waited)
        return parcels

    def drop_parcels(self, name: str) -> None:
        """An agent is gone for good, and with it the messages that were kept for it."""
        if lost := len(self.take_parcels(name)):
            logger.warning("agent %s is stopped before it had moved: %d messages lost", name, lost)

    def forget(self, name: str) -> None:
        """An agent is gone for good, with its state."""
        self.drop_parcels(name)
        self._states.pop(name, None)
