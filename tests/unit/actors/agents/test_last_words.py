"""Agents that stop or move while something does not work: none is lost, nor is its state."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.agent import Agent, capability
from actors.agents import running
from actors.agents.bench import AgentBench
from actors.agents.hosts import HostHandle
from actors.agents.last_words import LastWords
from actors.agents.link import HostLostError
from ironcliw.errors import NotFoundError, StoreError, UnavailableError
from tests.unit.actors.agents.shaky_store import ShakyStore
from tests.unit.actors.agents.waiting import until


class Counting(Agent):
    def __init__(self) -> None:
        self.count = 0

    def snapshot(self) -> Any:
        return self.count

    def restore(self, state: Any) -> None:
        self.count = state

    @capability("count", idempotent=True)
    async def add(self, _: Any) -> int:
        self.count += 1
        return self.count


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> ShakyStore:
    monkeypatch.setattr(running, "_STORE_PAUSE_SECONDS", 0.02)
    return ShakyStore()


@pytest.fixture
async def bench(store: ShakyStore) -> AsyncIterator[AgentBench]:
    async with AgentBench(store=store) as bench:
        await bench.start(Counting, name="a")
        assert await bench.ask("count") == 1
        yield bench


async def host_of(bench: AgentBench) -> HostHandle:
    [host] = await bench.hosts.find()
    return host


async def test_one_whose_machine_ends_too_early_starts_elsewhere(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await host_of(bench)
    await bench.store.save_snapshots({"a": b"j1"})

    async def gone(*_: Any) -> None:
        raise HostLostError("the machine ended before its time")

    monkeypatch.setattr(old, "hand_over", gone)
    await bench.system.node_leaving("local", time.time() + 1.0)
    await until(lambda: bench.system.describe("a")["host"] not in (None, old.name))
    assert await bench.ask("count") == 2


async def leave(bench: AgentBench) -> None:
    old = await host_of(bench)
    await bench.system.node_leaving("local", time.time() + 1.0)
    await until(lambda: bench.system.describe("a")["host"] not in (None, old.name))


async def restart(bench: AgentBench) -> None:
    await bench.system.restart_agent("a")
    await until(lambda: bench.system.describe("a")["status"] == "running")


@pytest.mark.parametrize("go", [leave, restart])
async def test_a_store_that_is_away_costs_no_state(
    bench: AgentBench, store: ShakyStore, go: Any
) -> None:
    store.away = frozenset({"save_snapshots", "snapshot"})
    await go(bench)
    assert await bench.ask("count") == 2
    store.away = frozenset()

    async def saved() -> bool:
        return await store.snapshot("a") == b"j1"

    await until(saved)


async def test_one_that_the_store_does_not_forget_can_be_stopped_again(
    bench: AgentBench, store: ShakyStore
) -> None:
    store.away = frozenset({"remove"})
    with pytest.raises(StoreError, match="the database is locked"):
        await bench.system.stop_agent("a")
    found = bench.system.describe("a")
    assert found["status"] == "failed"
    assert "the store does not forget it: the database is locked; stop it again" in found["reason"]
    store.away = frozenset()
    await bench.system.stop_agent("a")
    with pytest.raises(NotFoundError, match="there is no agent 'a'"):
        bench.system.describe("a")
    assert await store.agents() == []


async def test_a_state_that_was_saved_since_is_not_overwritten(store: ShakyStore) -> None:
    words = LastWords(store)
    store.away = frozenset({"save_snapshots"})
    await words.keep("a", b"old")
    assert await words.state_of("a") == b"old"
    store.away = frozenset()
    await words.save({"a": b"new"})
    await words.save_kept("a")
    assert await words.state_of("a") == b"new"


async def test_a_state_that_cannot_be_read_is_said_to_be_so(store: ShakyStore) -> None:
    store.away = frozenset({"snapshot"})
    with pytest.raises(UnavailableError, match="the last state of agent 'a' cannot be read"):
        await LastWords(store).state_of("a")
