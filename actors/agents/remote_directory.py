"""The registry as hosts and clients see it: through the control actor."""

from __future__ import annotations

from typing import Any

from actors.agents.directory import DurableSend, Listing
from actors.control_link import ControlLink
from actors.selection import Candidate

PART = "agents"


class RemoteDirectory:
    """A `Directory` in another process.

    Args:
        link: to the control actor.
    """

    def __init__(self, link: ControlLink) -> None:
        self._link = link

    async def look_up(self, target: str, wait_seconds: float, *, unknown_seconds: float) -> Listing:
        found: Listing = await self._ask(
            "look_up", target=target, wait_seconds=wait_seconds, unknown_seconds=unknown_seconds
        )
        return found

    async def subscribers(self, topic: str) -> tuple[Candidate, ...]:
        found: tuple[Candidate, ...] = await self._ask("subscribers", topic=topic)
        return found

    async def subscribe(self, topic: str, agent: str, *, on: bool) -> None:
        await self._ask("subscribe", topic=topic, agent=agent, on=on)

    async def send_durable(self, message: DurableSend) -> str:
        # its id makes a second one harmless
        return str(await self._ask("send_durable", message=message))

    async def _ask(self, method: str, **arguments: Any) -> Any:
        return await self._link.call(PART, method, repeatable=True, **arguments)
