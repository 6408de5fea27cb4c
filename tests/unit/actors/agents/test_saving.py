"""States of agents that run are saved, however large, slow or busy they are; nobody pays for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from actors.agent import Agent, capability
from actors.agents import host, saving, watching
from actors.agents.bench import AgentBench
from actors.agents.cell import Cell
from actors.agents.host import Snapshots
from actors.agents.hosts import LocalHandle
from actors.agents.records import MemoryStore
from tests.waiting import until

SOON = {"snapshot_seconds": 0.01}


class Heavy(Agent):
    """Has a state of some size."""

    def snapshot(self) -> Any:
        return b"x" * 20


class Busy(Agent):
    """Is nearly always in the midst of one of its plain methods."""

    def __init__(self) -> None:
        self.done = 0

    def snapshot(self) -> Any:
        return self.done

    @capability("work", concurrency=2)
    def work(self, seconds: float) -> None:
        time.sleep(seconds)
        self.done += 1

    @capability("chat")
    async def chat(self, body: Any) -> Any:
        return body


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AgentBench]:
    monkeypatch.setattr(watching, "REPORT_SECONDS", 0.1)
    async with AgentBench() as bench:
        yield bench


async def only_host(bench: AgentBench) -> LocalHandle:
    [found] = await bench.hosts.find()
    assert isinstance(found, LocalHandle)
    return found


async def looks(bench: AgentBench, times: int) -> None:
    """Wait until the watch has looked so often."""
    handle = await only_host(bench)
    seen, report = 0, handle.report

    async def counted() -> Any:
        nonlocal seen
        seen += 1
        return await report()

    handle.report = counted  # type: ignore[method-assign]
    await until(lambda: seen >= times)


async def test_slow_states_cost_no_healthy_host(bench: AgentBench) -> None:
    await bench.start(Heavy, name="heavy", options=SOON)
    handle, gate, asked = await only_host(bench), asyncio.Event(), 0
    snapshots = handle.snapshots

    async def slow(names: list[str], hold_seconds: float = 0.0) -> Snapshots:
        nonlocal asked
        asked += 1
        await gate.wait()
        return await snapshots(names, hold_seconds)

    handle.snapshots = slow  # type: ignore[method-assign]
    # longer than three silent polls would be
    await asyncio.sleep(0.5)
    await looks(bench, 5)
    assert not handle.dead
    assert asked == 1
    gate.set()
    await until(lambda: saved(bench, "heavy"))


async def saved(bench: AgentBench, name: str) -> bool:
    return await bench.store.snapshot(name) is not None


async def test_one_that_gives_none_is_asked_again(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saving, "SNAPSHOT_SECONDS", 0.05)
    await bench.start(Heavy, name="heavy", options=SOON)
    handle, asked = await only_host(bench), 0

    async def never(*_: Any) -> Snapshots:
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()
        raise AssertionError

    handle.snapshots = never  # type: ignore[method-assign]
    await until(lambda: asked >= 3)
    assert "does not give states within 0.05 s; it is asked again" in caplog.text
    assert not handle.dead


class HangingStore(MemoryStore):
    """Takes states only once its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.asked = 0

    async def save_snapshots(self, states: Mapping[str, bytes]) -> None:
        self.asked += 1
        await self.gate.wait()
        await super().save_snapshots(states)


async def test_a_store_that_hangs_is_given_the_states_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "REPORT_SECONDS", 0.05)
    store = HangingStore()
    async with AgentBench(store=store) as bench:
        await bench.start(Heavy, name="heavy", options=SOON)
        await until(lambda: store.asked)
        await asyncio.sleep(0.2)
        await looks(bench, 5)
        assert store.asked == 1
        store.gate.set()
        await until(lambda: saved(bench, "heavy"))


async def test_large_states_come_one_after_the_other(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "SNAPSHOT_BYTES", 15)
    names = ["a", "b", "c"]
    for name in names:
        await bench.start(Heavy, name=name)
    found = await (await only_host(bench)).snapshots(names)
    assert list(found.states) == ["a"]
    assert found.left == ["b", "c"]


async def test_and_are_all_saved(bench: AgentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "SNAPSHOT_BYTES", 15)
    monkeypatch.setattr(saving, "BATCH", 2)
    names = [f"agent-{number}" for number in range(5)]
    for name in names:
        await bench.start(Heavy, name=name, options=SOON)
    for name in names:
        await until(lambda name=name: saved(bench, name))


async def test_a_busy_agent_has_its_state_saved(bench: AgentBench) -> None:
    await bench.start(Busy, name="busy", options={"snapshot_seconds": 0.05})

    async def keep_busy() -> None:
        while True:
            await bench.ask("busy", 0.03, capability="work")

    async with asyncio.TaskGroup() as group:
        # more than it works on at once: when one ends the next begins at once
        workers = [group.create_task(keep_busy()) for _ in range(6)]
        await until(lambda: saved(bench, "busy"))
        for worker in workers:
            worker.cancel()


async def test_meanwhile_only_its_plain_methods_wait(bench: AgentBench) -> None:
    await bench.start(Busy, name="busy", options=SOON)
    working = asyncio.create_task(bench.ask("busy", 1.0, capability="work"))
    cell = (await only_host(bench)).host._cells["busy"]
    # both hands of "work" are not taken, and yet the second is held back
    await until(lambda: saving_holds(cell))
    waits = asyncio.create_task(bench.ask("busy", 0.01, capability="work"))
    assert await bench.ask("busy", 1, capability="chat") == 1
    assert not working.done()
    assert not waits.done()
    await asyncio.gather(working, waits)


async def saving_holds(cell: Cell) -> bool:
    """Whether plain methods are held back for longer than a turn of the event loop."""
    for _ in range(5):
        await asyncio.sleep(0)
        if not cell._plain_held:
            return False
    return True


async def test_one_that_is_too_busy_goes_on_and_it_is_said(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saving, "HOLD_SECONDS", 0.05)
    await bench.start(Busy, name="busy", options=SOON)
    working = asyncio.create_task(bench.ask("busy", 0.6, capability="work"))
    words = "agent busy: no state is saved, its method did not end within 0.05 s"
    await until(lambda: words in caplog.text)
    # what is no plain method is not held up, and what is goes on
    assert await bench.ask("busy", 1, capability="chat") == 1
    await bench.ask("busy", 0.01, capability="work")
    assert not working.done()
    await working
