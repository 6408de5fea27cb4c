"""A store that is away as a test tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from actors.agents.records import MemoryStore
from ironcliw.errors import StoreError


class ShakyStore(MemoryStore):
    """Counts what it is asked for.

    Attributes:
        away: names of the methods that fail.
        asked: how often each was called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.away = frozenset[str]()
        self.asked: Counter[str] = Counter()

    def status(self, name: str) -> str | None:
        """What it knows of an agent; None: nothing."""
        row = self._agents.get(name)
        return None if row is None else row.status

    def _check(self, method: str) -> None:
        self.asked[method] += 1
        if method in self.away:
            raise StoreError("the database is locked")

    async def change(self, name: str, **changes: Any) -> None:
        self._check("change")
        await super().change(name, **changes)

    async def remove(self, name: str) -> None:
        self._check("remove")
        await super().remove(name)

    async def snapshot(self, name: str) -> bytes | None:
        self._check("snapshot")
        return await super().snapshot(name)

    async def save_snapshots(self, states: Mapping[str, bytes]) -> None:
        self._check("save_snapshots")
        await super().save_snapshots(states)

    async def delivered(self, message_id: str) -> None:
        self._check("delivered")
        await super().delivered(message_id)

    async def done(self, message_id: str) -> None:
        self._check("done")
        await super().done(message_id)

    async def again(self, message_id: str, error: str, *, counts: bool) -> None:
        self._check("again")
        await super().again(message_id, error, counts=counts)

    async def dead(self, message_id: str, error: str) -> None:
        self._check("dead")
        await super().dead(message_id, error)
