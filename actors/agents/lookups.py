"""Answers of the registry, for which one may wait."""

from __future__ import annotations

import time

from actors.agents.bell import Bell
from actors.agents.directory import Listing
from actors.registry import AgentStatus, Registry
from ironcliw.errors import NotFoundError, UnavailableError

_WAITING = frozenset({AgentStatus.STARTING, AgentStatus.RESTARTING, AgentStatus.MOVING})


class Lookups:
    """Looks up who takes messages.

    Args:
        registry: knows; its `on_change` is taken.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._bell = Bell()
        registry.on_change = self._bell.ring

    async def look_up(self, target: str, wait_seconds: float, unknown_seconds: float) -> Listing:
        """See `Directory.look_up`. One that was given up is not waited for."""
        asked = time.monotonic()
        while True:
            turn = self._bell.turn
            try:
                return self._registry.look_up(target)
            except (NotFoundError, UnavailableError) as error:
                if isinstance(error, NotFoundError):
                    patience = unknown_seconds
                else:
                    patience = wait_seconds if self._comes_back(target) else 0.0
                left = asked + patience - time.monotonic()
                if left <= 0:
                    raise
            await self._bell.next(turn, left)

    def _comes_back(self, target: str) -> bool:
        return any(
            one.status in _WAITING
            for one in self._registry
            if one.name == target or target in one.capabilities
        )
