"""What the control actor answers about agents: its part "agents", for `ControlLink.call`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from actors.agents.directory import DurableSend, Listing
from actors.agents.options import Capability
from actors.agents.spec import AgentSpec
from actors.agents.system import AgentSystem
from actors.breaker import OpenCircuit
from actors.selection import Candidate


class AgentService:
    """Thin forwards; see `AgentSystem` for what they do and raise.

    Args:
        system: does it.
    """

    METHODS = frozenset(
        {
            "agents",
            "breakers",
            "dead_letters",
            "describe",
            "look_up",
            "replay",
            "restart",
            "send_durable",
            "start",
            "stop",
            "subscribe",
            "subscribers",
            "tell_circuits",
        }
    )
    """What the control actor lets others call."""

    def __init__(self, system: AgentSystem) -> None:
        self._system = system

    async def look_up(self, target: str, wait_seconds: float, unknown_seconds: float) -> Listing:
        return await self._system.look_up(target, wait_seconds, unknown_seconds=unknown_seconds)

    async def subscribers(self, topic: str) -> tuple[Candidate, ...]:
        return await self._system.subscribers(topic)

    async def subscribe(self, topic: str, agent: str, on: bool) -> None:
        await self._system.subscribe(topic, agent, on=on)

    async def send_durable(self, message: DurableSend) -> str:
        return await self._system.send_durable(message)

    async def start(self, spec: AgentSpec, capabilities: dict[str, Capability]) -> dict[str, Any]:
        return await self._system.start_agent(spec, capabilities)

    async def restart(self, name: str) -> dict[str, Any]:
        return await self._system.restart_agent(name)

    async def stop(self, name: str, seconds: float) -> None:
        await self._system.stop_agent(name, seconds)

    async def agents(self) -> list[dict[str, Any]]:
        return self._system.agents()

    async def breakers(self) -> list[dict[str, Any]]:
        return await self._system.breakers()

    async def tell_circuits(self, process: str, circuits: list[OpenCircuit]) -> None:
        self._system.tell_circuits(process, circuits)

    async def describe(self, name: str) -> dict[str, Any]:
        return self._system.describe(name)

    async def dead_letters(self, recipient: str | None, limit: int) -> list[dict[str, Any]]:
        return [asdict(row) for row in await self._system.dead_letters(recipient, limit)]

    async def replay(self, message_id: str) -> dict[str, Any]:
        return asdict(await self._system.replay(message_id))
