"""Durable messages where the store is away for a moment, and where nobody is there to take them."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from actors.agent import Agent, capability
from actors.agents.bench import AgentBench
from tests.unit.actors.agents.shaky_store import ShakyStore
from tests.waiting import until


class Clerk(Agent):
    gate: ClassVar[asyncio.Event]
    handled: ClassVar[list[Any]]

    @capability("file", idempotent=True)
    async def file(self, body: Any) -> None:
        self.handled.append(body)
        if body == "bad":
            raise ValueError("not this one")
        await self.gate.wait()


@pytest.fixture
def store() -> ShakyStore:
    Clerk.handled = []
    Clerk.gate = asyncio.Event()
    Clerk.gate.set()
    return ShakyStore()


@pytest.mark.parametrize("first", ["delivered", "done"])
async def test_a_store_that_is_away_stops_no_message(store: ShakyStore, first: str) -> None:
    async with AgentBench(store=store) as bench:
        await bench.start(Clerk)
        store.away = frozenset({first, "again"})
        await bench.send("file", "letter", durable=True)
        await until(lambda: store.asked[first] >= 2)
        assert Clerk.handled == ([] if first == "delivered" else ["letter"])
        store.away = frozenset()
        await until(lambda: bench.system.durable_on_the_way == 0)
    # what was done and could not be noted is not done again
    assert Clerk.handled == ["letter"]
    assert await store.open_messages() == []


async def test_nor_does_it_keep_poison_alive(store: ShakyStore) -> None:
    async with AgentBench(store=store) as bench:
        await bench.start(Clerk, options={"max_attempts": 1})
        store.away = frozenset({"again", "dead"})
        await bench.send("file", "bad", durable=True)
        await until(lambda: store.asked["again"] >= 2)
        store.away = frozenset({"dead"})
        await until(lambda: store.asked["dead"] >= 2)
        store.away = frozenset()
        await until(lambda: bench.system.durable_on_the_way == 0)
        [letter] = await bench.system.dead_letters(None, 10)
    assert (letter.body["body"], letter.attempts, Clerk.handled) == ("bad", 1, ["bad"])


async def test_the_urgent_need_not_wait_for_the_many(store: ShakyStore) -> None:
    Clerk.gate.clear()
    async with AgentBench(store=store) as bench:
        await bench.start(Clerk, name="clerk")
        for number in range(100):
            await bench.send("file", number, durable=True, priority="low")
        await until(lambda: bench.system.describe("clerk")["load"] == 64)
        await bench.send("file", "urgent", durable=True, priority="critical")
        await until(lambda: bench.system.describe("clerk")["load"] == 65)
        Clerk.gate.set()
        await until(lambda: bench.system.durable_on_the_way == 0)
    assert Clerk.handled.index("urgent") == 1
    assert len(Clerk.handled) == 101


async def test_to_wait_for_an_agent_costs_no_commits(
    store: ShakyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AgentBench(store=store) as bench:
        memory = bench.system.exchange.memory
        asked, look_up = [], memory.look_up

        async def counted(target: str, *given: Any, **options: Any) -> Any:
            asked.append(target)
            return await look_up(target, *given, **options)

        monkeypatch.setattr(memory, "look_up", counted)
        for number in range(200):
            await bench.send("file", number, durable=True)
        await until(lambda: len(asked) >= 200)
        await bench.start(Clerk, name="clerk")
        await until(lambda: bench.system.durable_on_the_way == 0)
    assert sorted(Clerk.handled) == list(range(200))
    assert store.asked["again"] == 0


async def test_a_deadline_counts_also_while_nobody_is_there(store: ShakyStore) -> None:
    async with AgentBench(store=store) as bench:
        await bench.send("file", 1, durable=True, deadline_seconds=0.05)
        await until(lambda: bench.system.durable_on_the_way == 0)
        [letter] = await bench.system.dead_letters("file", 10)
    assert (letter.error, letter.attempts) == ("its deadline has passed", 0)


async def test_a_bug_that_ends_a_delivery_is_told_of(
    store: ShakyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any) -> None:
        raise ValueError("a bug")

    async with AgentBench(store=store) as bench:
        await bench.start(Clerk)
        monkeypatch.setattr(bench.system._deliveries, "_attempt", broken)
        await bench.send("file", "letter", durable=True)
        await until(lambda: bench.system.durable_on_the_way == 0)
    assert "is not carried now" in caplog.text
    assert "ValueError: a bug" in caplog.text
    assert len(await store.open_messages()) == 1, "the next head carries it"
