"""Agents that stop or move while something does not work: none is lost, nor is its state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from actors.agent import Agent, capability
from actors.agents import running
from actors.agents.bench import AgentBench
from actors.agents.hosts import HostHandle
from actors.agents.last_words import LastWords
from actors.agents.link import HostGoneError, HostLostError
from actors.agents.messages import Message, Parcel, new_id, to_parcel
from ironcliw.errors import NotFoundError, StoreError, UnavailableError
from tests.unit.actors.agents.shaky_store import ShakyStore
from tests.waiting import until


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

    @capability("once")
    async def once(self, _: Any) -> None: ...


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


async def test_nor_is_one_that_comes_while_an_older_one_is_saved(store: ShakyStore) -> None:
    words, gate = LastWords(store), asyncio.Event()
    store.away = frozenset({"save_snapshots"})
    await words.keep("a", b"oldest")
    store.away = frozenset()
    save = store.save_snapshots

    async def slow(states: Mapping[str, bytes]) -> None:
        await gate.wait()
        await save(states)

    store.save_snapshots = slow  # type: ignore[method-assign]
    saving = asyncio.create_task(words.save({"a": b"old"}))
    await asyncio.sleep(0)
    store.save_snapshots = save  # type: ignore[method-assign]
    store.away = frozenset({"save_snapshots"})
    await words.keep("a", b"last")
    store.away = frozenset()
    gate.set()
    await saving
    assert await words.state_of("a") == b"last"


async def test_messages_that_a_new_place_did_not_take_are_carried_on(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.system._running.last_words.carry("a", [parcel(10.0)])
    old = await host_of(bench)
    times = 0

    async def dies(_: Any) -> None:
        nonlocal times
        times += 1
        raise HostLostError("it died just then")

    monkeypatch.setattr(old, "replay", dies)
    await bench.system.restart_agent("a")
    await until(lambda: bench.system.describe("a")["host"] not in (None, old.name))
    assert times == 1
    # what was started there is ended: it would answer beside the new one
    await until(lambda: "a" not in old.host._cells)  # type: ignore[attr-defined]
    # the one that was carried has been counted before
    assert await bench.ask("count") == 3


async def test_but_not_for_one_that_is_stopped_meanwhile(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = bench.system._running.last_words
    words.carry("a", [parcel(10.0)])
    old, asked, ended = await host_of(bench), asyncio.Event(), asyncio.Event()

    async def stays(_: Any) -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(old, "replay", stays)
    await bench.system.restart_agent("a")
    await asked.wait()
    await bench.system.stop_agent("a")
    await ended.wait()
    assert words.take_parcels("a") == []


@pytest.mark.parametrize(
    ("end", "kept"),
    [
        # it may have taken all of them: what is not idempotent must not be done twice
        (asyncio.CancelledError(), ["count"]),
        (HostLostError("it died just then"), ["count"]),
        (HostGoneError("it was dead before"), ["count", "once", None]),
    ],
)
async def test_what_a_new_place_may_have_taken_is_carried_on_if_it_is_harmless(
    bench: AgentBench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    end: BaseException,
    kept: list[str | None],
) -> None:
    running, old = bench.system._running, await host_of(bench)
    given = [parcel(10.0, capability) for capability in ("count", "once", None)]
    running.last_words.carry("a", given)

    async def ends(_: Any) -> None:
        raise end

    monkeypatch.setattr(old, "replay", ends)
    with pytest.raises(type(end)):
        await running._replay(old, bench.system.registry.get("a"))
    assert [one.capability for one in running.last_words.take_parcels("a")] == kept
    lost = "agent a: 2 messages are lost: nobody knows whether it had them"
    assert (lost in caplog.text) is (kept == ["count"])


def parcel(seconds: float, capability: str | None = "count") -> Parcel:
    message = Message(new_id(), "a", None, capability, deadline=seconds)
    return to_parcel(message, 0.0, wants_reply=False)


async def test_a_state_that_cannot_be_read_is_said_to_be_so(store: ShakyStore) -> None:
    store.away = frozenset({"snapshot"})
    with pytest.raises(UnavailableError, match="the last state of agent 'a' cannot be read"):
        await LastWords(store).state_of("a")
