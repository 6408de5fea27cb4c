"""Processes that run no agent are ended: on Spot each holds a machine that costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from actors.agent import Agent, capability
from actors.agents import watching
from actors.agents.bench import AgentBench
from ironcliw.errors import IroncliwError
from tests.waiting import until

MANY = 10**6


class Idle(Agent):
    gate: ClassVar[asyncio.Event | None] = None

    async def on_start(self) -> None:
        if self.gate is not None:
            await self.gate.wait()

    @capability("echo")
    async def echo(self, body: Any) -> Any:
        return body


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AgentBench]:
    Idle.gate = None
    monkeypatch.setattr(watching, "EMPTY_POLLS", 3)
    async with AgentBench(cloud=True) as bench:
        yield bench


async def no_host(bench: AgentBench) -> bool:
    return not await bench.hosts.find()


async def test_a_shared_host_ends_after_its_last_agent(bench: AgentBench) -> None:
    await bench.start(Idle, name="a", options={"place": "spot"})
    await bench.start(Idle, name="b", options={"place": "spot"})
    await bench.system.stop_agent("a")
    await looks(bench, 10)
    assert await bench.ask("b", 1, capability="echo") == 1
    await bench.system.stop_agent("b")
    await until(lambda: no_host(bench))
    # and the next one finds a new one
    await bench.start(Idle, name="a", options={"place": "spot"})
    assert await bench.ask("a", 1, capability="echo") == 1


async def looks(bench: AgentBench, times: int) -> None:
    [handle] = await bench.hosts.find()
    seen, report = 0, handle.report

    async def counted() -> Any:
        nonlocal seen
        seen += 1
        return await report()

    handle.report = counted  # type: ignore[method-assign]
    await until(lambda: seen >= times)


async def test_not_while_an_agent_starts_there(bench: AgentBench) -> None:
    Idle.gate = asyncio.Event()
    starting = asyncio.create_task(bench.start(Idle, name="slow", options={"place": "spot"}))
    await until(bench.hosts.find)
    await looks(bench, 10)
    Idle.gate.set()
    await starting
    assert await bench.ask("slow", 1, capability="echo") == 1


async def test_one_that_is_stopped_while_it_starts_leaves_no_process(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "EMPTY_POLLS", MANY)
    Idle.gate = asyncio.Event()
    own = {"place": "spot", "isolated": True}
    starting = asyncio.create_task(bench.start(Idle, name="a", options=own))
    await until(bench.hosts.find)
    await bench.system.stop_agent("a")
    Idle.gate.set()
    await asyncio.gather(starting, return_exceptions=True)
    await until(lambda: no_host(bench))
    assert bench.system.agents() == []
    with pytest.raises(IroncliwError, match="there is no agent 'a'"):
        bench.system.describe("a")
