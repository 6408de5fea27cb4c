"""Who is where: what a process asks the registry, and remembers for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.agents.messages import new_id
from actors.selection import Candidate

REMEMBER_SECONDS = 1.0
"""How long an answer of the registry is used again. One that proved wrong is forgotten at once."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Those that a name or a capability stands for.

    Attributes:
        by_name: it is one agent's name.
        candidates: agents that take messages.
    """

    by_name: bool
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class DurableSend:
    """A message for the store.

    Attributes:
        target: an agent's name, or a capability.
        body: what JSON can write.
        capability: where the target is a name.
        sender: the agent's name.
        topic: set where it was published.
        priority: a `Priority`.
        key: idempotency key.
        deadline_seconds: from now.
        id: unlike any other's; sending it twice is sending it once.
    """

    target: str
    body: Any
    capability: str | None = None
    sender: str | None = None
    topic: str | None = None
    priority: int = 2
    key: str | None = None
    deadline_seconds: float | None = None
    id: str = field(default_factory=new_id)


class Directory(Protocol):
    """The registry, as every process sees it."""

    async def look_up(self, target: str, wait_seconds: float, *, unknown_seconds: float) -> Listing:
        """Those of a name or a capability.

        Args:
            target: the name or the capability.
            wait_seconds: how long to wait for one that takes no messages now.
            unknown_seconds: how long to wait where there is none yet.

        Raises:
            NotFoundError: there is none.
            UnavailableError: it is known, and takes no messages now.
        """

    async def subscribers(self, topic: str) -> tuple[Candidate, ...]:
        """Who listens to a topic."""

    async def subscribe(self, topic: str, agent: str, *, on: bool) -> None:
        """Note that an agent listens to a topic, or no longer does."""

    async def send_durable(self, message: DurableSend) -> str:
        """Commit a message; returns its id. An earlier one of the same key gives its own id."""


@dataclass
class Memory:
    """Answers of the registry, kept for a moment.

    Args:
        directory: the registry.
        clock: monotonic seconds.
    """

    directory: Directory
    clock: Callable[[], float] = time.monotonic
    _listings: dict[str, tuple[float, Listing]] = field(default_factory=dict)
    _topics: dict[str, tuple[float, tuple[Candidate, ...]]] = field(default_factory=dict)

    async def look_up(
        self, target: str, wait_seconds: float = 0.0, *, unknown_seconds: float = 0.0
    ) -> Listing:
        """As `Directory.look_up`, perhaps a moment old."""
        found = self._listings.get(target)
        if found is not None and found[0] > self.clock():
            return found[1]
        listing = await self.directory.look_up(
            target, wait_seconds, unknown_seconds=unknown_seconds
        )
        self._listings[target] = (self.clock() + REMEMBER_SECONDS, listing)
        return listing

    async def subscribers(self, topic: str) -> tuple[Candidate, ...]:
        """As `Directory.subscribers`, perhaps a moment old."""
        found = self._topics.get(topic)
        if found is not None and found[0] > self.clock():
            return found[1]
        candidates = await self.directory.subscribers(topic)
        self._topics[topic] = (self.clock() + REMEMBER_SECONDS, candidates)
        return candidates

    def forget(self, target: str) -> None:
        """An answer proved wrong."""
        self._listings.pop(target, None)

    def forget_topic(self, topic: str) -> None:
        """Somebody here has subscribed or left."""
        self._topics.pop(topic, None)
