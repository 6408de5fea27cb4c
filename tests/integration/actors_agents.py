"""Agents for the tests of this folder; hosts import them by name."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from actors.agent import Agent, capability


class Helper(Agent):
    """Does good and bad things."""

    snapshot_seconds = 0.2

    def __init__(self, trace: str | None = None) -> None:
        self.trace = trace
        self.count = 0
        self.hoard: list[bytes] = []

    def snapshot(self) -> Any:
        return self.count

    def restore(self, state: Any) -> None:
        self.count = state

    @capability("pid", concurrency=8, idempotent=True)
    async def pid(self, _: Any) -> int:
        return os.getpid()

    @capability("count", idempotent=True)
    async def add(self, body: Any) -> int:
        self.count += 1
        self.write(body)
        return self.count

    @capability("note")
    async def note(self, body: Any) -> None:
        await asyncio.sleep(0.5)
        self.write(f"{body} {os.getpid()}")

    @capability("relay", concurrency=8)
    async def relay(self, body: dict[str, Any]) -> Any:
        return await self.ask(**body)

    @capability("raise", concurrency=8)
    async def fail(self, text: str) -> None:
        raise LookupError(text)

    @capability("block", concurrency=8)
    async def block(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - the mistake that the test is about

    @capability("hang", concurrency=8, timeout_seconds=0.2)
    def hang(self, seconds: float) -> None:
        time.sleep(seconds)

    @capability("sleep", concurrency=8)
    async def sleep(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    @capability("exit", concurrency=8)
    async def exit(self, body: Any) -> None:
        self.write(body)
        os._exit(1)

    @capability("grow", concurrency=8)
    async def grow(self, megabytes: int) -> None:
        for _ in range(megabytes):
            self.hoard.append(bytes(bytearray(1_000_000)))

    def write(self, body: Any) -> None:
        if self.trace is not None:
            with open(self.trace, "a", encoding="utf-8") as trace:
                trace.write(f"{body}\n")
