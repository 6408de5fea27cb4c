"""What theme `actors` has done: agents and bare Ray actors with the same methods, and functions.

It is imported by the processes of both; the bare ones are as Ray's documentation writes them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from actors.agent import Agent, capability
from actors.functions import function

CONCURRENCY = 1000
Call = Callable[[Any], Awaitable[Any]]


@function("benchmark.nothing", idempotent=True)
def nothing(value: Any = None) -> Any:
    """A step without work."""
    return value


class Echo:
    """What both kinds of receiver do."""

    def __init__(self) -> None:
        self.late: list[float] = []

    def note(self, due: float) -> None:
        """A message that should have been sent at `due` (CLOCK_MONOTONIC) is here."""
        self.late.append(time.monotonic() - due)

    def take_late(self) -> list[float]:
        """Seconds from when each message was due to its arrival; forgets them."""
        taken, self.late = self.late, []
        return taken


async def one_at_a_time(call: Call, count: int) -> float:
    """Seconds for so many calls, each awaited before the next."""
    begun = time.perf_counter()
    for number in range(count):
        assert await call(number) == number
    return time.perf_counter() - begun


async def in_flight(call: Call, count: int, window: int) -> float:
    """Seconds for so many calls, of which so many wait for their answer at any time."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            assert await call(number) == number

    begun = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(window)))
    return time.perf_counter() - begun


async def paced(send: Call, rate: float, seconds: float) -> int:
    """Sends at fixed moments, whatever becomes of what was sent before; returns how many."""
    begun, count = time.monotonic() + 0.05, int(rate * seconds)
    waiting: set[asyncio.Future[Any]] = set()
    for number in range(count):
        due = begun + number / rate
        if (left := due - time.monotonic()) > 0:
            await asyncio.sleep(left)
        future = asyncio.ensure_future(send(due))
        waiting.add(future)
        future.add_done_callback(waiting.discard)
    await asyncio.gather(*waiting)
    return count


async def perform(call: Call, send: Call, work: Sequence[Any]) -> float:
    """One measurement by its name, as a caller is told to do it."""
    kind, *numbers = work
    if kind == "one at a time":
        return await one_at_a_time(call, *numbers)
    if kind == "in flight":
        return await in_flight(call, *numbers)
    assert kind == "paced", kind
    return await paced(send, *numbers)


class EchoAgent(Agent, Echo):
    """Receives."""

    mailbox = 10_000

    @capability("echo", concurrency=CONCURRENCY, idempotent=True)
    async def echo(self, body: Any) -> Any:
        return body

    @capability("arrive", concurrency=CONCURRENCY)
    async def arrive(self, due: float) -> None:
        self.note(due)

    @capability("late")
    async def late_ones(self, _: Any) -> list[float]:
        return self.take_late()

    @capability("pid")
    async def pid(self, _: Any) -> int:
        return os.getpid()


class CallerAgent(Agent):
    """Sends."""

    @capability("perform")
    async def perform(self, body: dict[str, Any]) -> float:
        name = body["to"]

        async def call(value: Any) -> Any:
            return await self.ask(name, value, capability="echo")

        async def send(value: Any) -> None:
            await self.send(name, value, capability="arrive")

        return await perform(call, send, body["work"])


class IdleAgent(Agent):
    """Waits; one of fifty kinds of work."""

    @capability("idle")
    async def idle(self, _: Any) -> None:
        return None


class BareEcho(Echo):
    """Receives, as a Ray actor."""

    async def echo(self, body: Any) -> Any:
        return body

    async def arrive(self, due: float) -> None:
        self.note(due)

    async def late_ones(self) -> list[float]:
        return self.take_late()


class BareCaller:
    """Sends, as a Ray actor."""

    def __init__(self, receiver: Any) -> None:
        self._receiver = receiver

    async def perform(self, work: Sequence[Any]) -> float:
        async def call(value: Any) -> Any:
            return await self._receiver.echo.remote(value)

        async def send(value: Any) -> None:
            await self._receiver.arrive.remote(value)

        return await perform(call, send, work)
