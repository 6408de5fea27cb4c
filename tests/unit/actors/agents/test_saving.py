"""States of agents that run are saved, however large, slow or busy they are; nobody pays for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import pytest

from actors.agent import Agent, capability
from actors.agents import saving, snapshots, watching
from actors.agents.bench import AgentBench
from actors.agents.cell import Cell
from actors.agents.hosts import LocalHandle
from actors.agents.records import MemoryStore
from actors.agents.snapshots import Snapshots
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
    monkeypatch.setattr(snapshots, "SNAPSHOT_BYTES", 15)
    names = ["a", "b", "c"]
    for name in names:
        await bench.start(Heavy, name=name)
    found = await (await only_host(bench)).snapshots(names)
    assert list(found.states) == ["a"]
    assert found.left == ["b", "c"]


async def test_and_are_all_saved(bench: AgentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SNAPSHOT_BYTES", 15)
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
        if not cell._lanes.holds_plain:
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


class Long(Busy):
    """Has a method that lasts as long as a test wants it."""

    gate: ClassVar[threading.Event]

    @capability("long")
    def long(self, _: Any) -> None:
        self.gate.wait(30)


async def holds_of(bench: AgentBench, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each question for states that is answered from now on held methods up."""
    monkeypatch.setattr(saving, "HOLD_SECONDS", 0.05)
    Long.gate = threading.Event()
    await bench.start(Long, name="long-one", options=SOON)
    handle, holds = await only_host(bench), list[float]()
    snapshots = handle.snapshots

    async def noted(names: list[str], hold_seconds: float = 0.0) -> Snapshots:
        found = await snapshots(names, hold_seconds)
        holds.append(hold_seconds)
        return found

    handle.snapshots = noted  # type: ignore[method-assign]
    return holds


async def test_and_is_not_held_up_again_and_again(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds = await holds_of(bench, monkeypatch)
    for _ in range(2):  # the second one finds what the first has left
        working = asyncio.create_task(bench.ask("long-one", capability="long"))
        await until(lambda: 0.05 in holds)
        looked = len(holds) + 10
        await until(lambda looked=looked: len(holds) >= looked)
        assert holds.count(0.05) == 1
        Long.gate.set()
        await working
        await until(lambda: saved(bench, "long-one"))
        Long.gate.clear()


async def test_but_some_time_later(bench: AgentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "HOLD_AGAIN_SECONDS", 0.1)
    holds = await holds_of(bench, monkeypatch)
    working = asyncio.create_task(bench.ask("long-one", capability="long"))
    await until(lambda: holds.count(0.05) >= 2)
    Long.gate.set()
    await working


class Ledger(Busy):
    """Counts what it is told, too."""

    def restore(self, state: Any) -> None:
        self.done = state

    @capability("add")
    async def add(self, _: Any) -> int:
        self.done += 1
        return self.done


async def test_a_state_from_before_a_restart_does_not_replace_a_newer_one(
    bench: AgentBench,
) -> None:
    for name in ("slow", "quick"):
        await bench.start(Ledger, name=name, options=SOON)
    handle = await only_host(bench)
    snapshots, taken, gate = handle.snapshots, asyncio.Event(), asyncio.Event()

    async def late(names: list[str], hold_seconds: float = 0.0) -> Snapshots:
        found = await snapshots(names, hold_seconds)
        if "quick" in found.states:
            taken.set()  # its answer waits for the other one
            await gate.wait()
        return found

    handle.snapshots = late  # type: ignore[method-assign]
    await taken.wait()
    for _ in range(7):
        await bench.ask("quick", capability="add")
    await bench.system.restart_agent("quick")
    await until(lambda: bench.system.describe("quick")["status"] == "running")
    assert bench.system.describe("quick")["host"] == handle.name
    assert await bench.store.snapshot("quick") == b"j7"
    written: list[Mapping[str, bytes]] = []
    save = bench.store.save_snapshots

    async def noted(states: Mapping[str, bytes]) -> None:
        written.append(states)
        await save(states)

    bench.store.save_snapshots = noted  # type: ignore[method-assign]
    gate.set()
    await until(lambda: any("slow" in states for states in written))
    assert all(states.get("quick", b"j7") == b"j7" for states in written)


class Laborious(Long):
    """Takes some time over its state."""

    takers: ClassVar[list[str]]
    turns: ClassVar[list[int]]

    def snapshot(self) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self.takers.append(task.get_name())
        self.turns.append(0)
        time.sleep(0.01)
        return super().snapshot()


@pytest.mark.parametrize("busy", [False, True])
async def test_states_that_take_long_leave_the_event_loop_its_turns(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    monkeypatch.setattr(snapshots, "STATES_SECONDS", 60.0)
    Laborious.takers, Laborious.turns, Long.gate = [], [0], threading.Event()
    names = [f"agent-{number}" for number in range(5)]
    for name in names:
        await bench.start(Laborious, name=name)

    async def turn() -> None:
        while True:
            Laborious.turns[-1] += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        if busy:
            for name in names:
                group.create_task(bench.ask(name, capability="long"))
        cells = (await only_host(bench)).host._cells
        await until(lambda: all(cells[name].in_thread is busy for name in names))
        turning = group.create_task(turn())
        asked = group.create_task((await only_host(bench)).snapshots(names, 10.0))
        await asyncio.sleep(0)
        Long.gate.set()
        found = await asked
        turning.cancel()
    assert sorted(found.states) == names
    assert all(Laborious.turns)
    # by these names the one that blocks is found out
    assert sorted(Laborious.takers) == [f"agent:{name}" for name in names]


async def test_and_come_one_after_the_other(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "STATES_SECONDS", 0.005)
    Laborious.takers, Laborious.turns = [], [0]
    names = ["a", "b", "c"]
    for name in names:
        await bench.start(Laborious, name=name)
    found = await (await only_host(bench)).snapshots(names)
    assert list(found.states) == ["a"]
    assert found.left == ["b", "c"]
