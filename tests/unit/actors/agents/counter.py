"""An agent that counts, remembers, and fails as it is told."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, ClassVar

from actors.agent import Agent, capability
from actors.supervisor import RestartPolicy

PATIENT = RestartPolicy(restarts=3, first_pause=0.01, longest_pause=0.02)


class Counter(Agent):
    """Counts, remembers, and fails as it is told."""

    handled: ClassVar[list[Any]] = []
    """By all that there were, of whatever process."""
    gate: ClassVar[asyncio.Event]

    def __init__(self) -> None:
        self.count = 0
        self.well = True

    def snapshot(self) -> Any:
        return {"count": self.count}

    def restore(self, state: Any) -> None:
        self.count = state["count"]

    def healthy(self) -> bool:
        return self.well

    @capability("count", idempotent=True)
    async def add(self, body: Any) -> int:
        self.handled.append(body)
        if body == "poison":
            raise ValueError("not this one")
        if body == "once" and self.handled.count("once") == 1:
            raise ValueError("not at first")
        self.count += 1
        return self.count

    @capability("slow", concurrency=4)
    async def slow(self, body: Any) -> Any:
        self.handled.append(body)
        await self.gate.wait()
        return body

    @capability("only")
    async def only(self, body: Any) -> Any:
        return await self.slow(body)

    @capability("redo", idempotent=True, concurrency=4)
    async def redo(self, body: Any) -> Any:
        self.handled.append(body)
        await self.gate.wait()
        return body

    @capability("sicken")
    async def sicken(self, _: Any) -> None:
        self.well = False


class Teller(Agent):
    """Sends within its process, where any object may be sent."""

    @capability("tell")
    async def tell(self, message: list[Any]) -> None:
        target, wanted, body = message
        found = threading.Lock() if body == "a lock" else body
        await self.send(target, found, capability=wanted)
