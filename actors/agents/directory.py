"""Who is where: what a process asks the registry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.agents.messages import new_id
from actors.selection import Candidate


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
