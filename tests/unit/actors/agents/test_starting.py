"""Agents that are stopped, or started anew, while they start."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from actors.agent import Agent, capability
from actors.agents.bench import AgentBench
from actors.agents.hosts import LocalHandle
from ironcliw.errors import AgentError, NotFoundError
from tests.unit.actors.agents.shaky_store import ShakyStore
from tests.waiting import until


class Slow(Agent):
    """Starts once its gate is open, if it is an old one."""

    gate: ClassVar[asyncio.Event]
    begun: ClassVar[list[str]]
    broken_off: ClassVar[list[str]]

    def __init__(self, word: str = "old") -> None:
        self.word = word

    async def on_start(self) -> None:
        self.begun.append(self.word)
        if self.word == "old":
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.broken_off.append(self.word)
                raise

    @capability("say")
    async def say(self, _: Any) -> str:
        return self.word


class Neighbour(Agent):
    """Keeps the process that light agents share."""


@pytest.fixture(autouse=True)
def anew() -> None:
    Slow.gate, Slow.begun, Slow.broken_off = asyncio.Event(), [], []


async def starting(bench: AgentBench, **options: Any) -> asyncio.Task[str]:
    """One of which `on_start` goes on."""
    task = asyncio.create_task(bench.start(Slow, name="slow", options=options))
    await until(lambda: Slow.begun)
    return task


async def is_broken_off(start: asyncio.Task[str]) -> None:
    with pytest.raises(AgentError, match="agent 'slow' was stopped while it started"):
        await asyncio.wait_for(start, 10)


@pytest.mark.parametrize("isolated", [False, True])
async def test_one_that_is_stopped_while_it_starts_is_broken_off(isolated: bool) -> None:
    async with AgentBench() as bench:
        await bench.start(Neighbour, name="neighbour")
        first = await starting(bench, isolated=isolated)
        await bench.system.stop_agent("slow")
        await is_broken_off(first)
        assert Slow.broken_off == ["old"]
        with pytest.raises(NotFoundError, match="there is no agent 'slow'"):
            bench.system.describe("slow")
        [host] = await bench.hosts.find()  # none that was made for it alone
        assert [one.name for one in (await host.report()).agents] == ["neighbour"]
        assert [row.name for row in await bench.store.agents()] == ["neighbour"]


async def test_and_a_new_one_of_its_name_is_the_new_one() -> None:
    async with AgentBench() as bench:
        await bench.start(Neighbour, name="neighbour")
        first = await starting(bench)
        await bench.system.stop_agent("slow")
        await bench.start(Slow, name="slow", word="new")
        assert await bench.ask("slow", capability="say") == "new"
        Slow.gate.set()
        await is_broken_off(first)
        assert await bench.ask("slow", capability="say") == "new"


async def test_what_a_broken_off_start_has_left_gives_way() -> None:
    async with AgentBench() as bench:
        await bench.start(Neighbour, name="neighbour")
        [handle] = await bench.hosts.find()
        assert isinstance(handle, LocalHandle)
        start = handle.start_agent

        async def goes_on(*given: Any) -> None:  # a call to another process cannot be taken back
            await asyncio.shield(start(*given))

        handle.start_agent = goes_on  # type: ignore[method-assign]
        first = await starting(bench)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await bench.start(Slow, name="slow", word="new")
        Slow.gate.set()
        assert Slow.broken_off == ["old"]
        assert await bench.ask("slow", capability="say") == "new"


async def test_one_whose_start_ends_late_leaves_the_newer_one_alone() -> None:
    async with AgentBench() as bench:
        await bench.start(Neighbour, name="neighbour")
        [handle] = await bench.hosts.find()
        start, drop, told = handle.start_agent, handle.drop_agent, asyncio.Event()

        async def told_late(spec: Any, state: bytes | None) -> None:
            await start(spec, state)
            if spec.arguments["word"] == "first":
                await told.wait()

        async def not_dropped(*_: Any) -> None:  # as where it does not answer
            raise TimeoutError

        handle.start_agent = told_late  # type: ignore[method-assign]
        handle.drop_agent = not_dropped  # type: ignore[method-assign]
        first = asyncio.create_task(bench.start(Slow, name="slow", word="first"))
        await until(lambda: Slow.begun)
        await bench.system.stop_agent("slow")
        handle.drop_agent = drop  # type: ignore[method-assign]
        await bench.start(Slow, name="slow", word="new")
        told.set()
        await is_broken_off(first)
        assert await bench.ask("slow", capability="say") == "new"
        assert bench.system.describe("slow")["restarts"] == 0


async def test_one_that_is_started_anew_while_it_starts_stays() -> None:
    async with AgentBench() as bench:
        await bench.start(Neighbour, name="neighbour")
        first = await starting(bench)
        await bench.system.restart_agent("slow")
        await is_broken_off(first)
        await until(lambda: Slow.begun == ["old", "old"])
        Slow.gate.set()
        assert await bench.ask("slow", capability="say") == "old"
        assert [row.name for row in await bench.store.agents()] == ["neighbour", "slow"]


async def test_one_whose_host_is_lost_while_it_is_forgotten_is_not_brought_back() -> None:
    store, gate, forgetting = ShakyStore(), asyncio.Event(), asyncio.Event()
    remove = store.remove

    async def slow(name: str) -> None:
        forgetting.set()
        await gate.wait()
        await remove(name)

    async with AgentBench(store=store) as bench:
        Slow.gate.set()
        await bench.start(Slow, name="slow")
        store.remove = slow  # type: ignore[method-assign]
        stopping = asyncio.create_task(bench.system.stop_agent("slow"))
        await forgetting.wait()
        Slow.gate.clear()
        bench.system._watching.restart("slow", "its host was lost")
        await until(lambda: Slow.begun == ["old", "old"])
        gate.set()
        await stopping
        await until(lambda: Slow.broken_off == ["old"])
        assert bench.system.agents() == []
