"""What an agent is given of the world: its process's post office, in the agent's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.agent import Listener
from actors.agents.cell import Cell
from actors.agents.exchange import Exchange
from actors.agents.messages import Priority


class OutsideOf:
    """An agent's way to the others: `actors.agent.Outside`.

    Args:
        name: of the agent.
        exchange: the post office.
        cell: the agent at work, once it is.
    """

    def __init__(self, name: str, exchange: Exchange, cell: Callable[[], Cell]) -> None:
        self.name = name
        self._exchange = exchange
        self._cell = cell

    async def ask(self, target: str, body: Any, **options: Any) -> Any:
        return await self._exchange.ask(target, body, sender=self.name, **options)

    async def send(self, target: str, body: Any, **options: Any) -> None:
        await self._exchange.send(target, body, sender=self.name, **options)

    async def publish(self, topic: str, body: Any, *, priority: Priority | str) -> int:
        return await self._exchange.publish(topic, body, priority=priority, sender=self.name)

    async def subscribe(self, topic: str, listener: Listener) -> None:
        self._cell().listen(topic, listener)
        await self._exchange.subscribe(topic, self.name, on=True)

    async def unsubscribe(self, topic: str) -> None:
        await self._exchange.subscribe(topic, self.name, on=False)
        self._cell().listen(topic, None)
