"""Agents leave machines that end: with state, mailbox and what they were at.

On the bench, where the end of a machine is played.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from actors.agents.bench import AgentBench
from actors.agents.hosts import HostHandle, HostPlan
from ironcliw.errors import (
    UnavailableError,
)
from tests.unit.actors.agents.counter import Counter, Teller
from tests.waiting import until


def moving(bench: AgentBench, name: str) -> Callable[[], bool]:
    before = bench.system.describe(name)["host"]
    return lambda: bench.system.describe(name)["host"] not in (None, before)


async def test_agents_leave_a_machine_with_state_and_mailbox(bench: AgentBench) -> None:
    await bench.start(Counter, name="a", options={"place": "spot"})
    await bench.start(Counter, name="home")
    assert await bench.ask("a", 1, capability="count") == 1
    redone = asyncio.create_task(bench.ask("a", "r", capability="redo"))
    finishes = asyncio.create_task(bench.ask("a", "s", capability="slow"))
    await until(lambda: {"r", "s"} <= set(Counter.handled))
    # four are at it, so these wait in the mailbox: some are waited for, some were only sent
    asks = [bench.ask("a", f"m{number}", capability="slow") for number in range(3)]
    rest = [asyncio.create_task(one) for one in asks]
    for number in range(6):
        await bench.send("a", f"sent{number}", capability="slow")
    left, home = moving(bench, "a"), bench.system.describe("home")["host"]
    [spot] = [h for h in await bench.hosts.find() if h.node == "spot"]
    spot.notice_seconds = 4.0  # type: ignore[attr-defined]
    await until(lambda: bench.system.describe("a")["status"] == "moving")
    Counter.gate.set()
    await until(left)
    assert await finishes == "s"
    assert await redone == "r"
    assert await asyncio.gather(*rest) == ["m0", "m1", "m2"]
    await until(lambda: {f"sent{n}" for n in range(6)} <= set(Counter.handled))
    assert Counter.handled.count("r") == 2
    assert all(Counter.handled.count(f"sent{n}") == 1 for n in range(6))
    # its state went with it, the neighbour at home noticed nothing, and the old process is gone
    assert await bench.ask("a", 1, capability="count") == 2
    assert bench.system.describe("home")["host"] == home

    async def gone() -> bool:
        return spot not in await bench.hosts.find()

    await until(gone)


async def test_what_does_not_end_in_time_is_broken_off(bench: AgentBench) -> None:
    await bench.start(Counter, name="a")
    asked = asyncio.create_task(bench.ask("a", "s", capability="slow"))
    await until(lambda: Counter.handled == ["s"])
    left = moving(bench, "a")
    await bench.system.node_leaving("local", time.time() + 0.1)
    await until(left)
    with pytest.raises(UnavailableError, match=r"was stopped while it worked on 'slow'|is gone"):
        await asked
    assert Counter.handled == ["s"]


class Speechless(Counter):
    def snapshot(self) -> Any:
        raise OSError("no words")


@pytest.mark.parametrize("how", ["the head", "the machine"])
async def test_an_end_that_is_nearer_than_was_known_hurries_who_moves(
    bench: AgentBench, how: str
) -> None:
    await bench.start(Counter, name="a")
    await bench.ask("a", 1, capability="count")
    [host] = await bench.hosts.find()
    asked = asyncio.create_task(bench.ask("a", "b", capability="only", deadline_seconds=200))
    await until(lambda: "b" in Counter.handled)
    await bench.system.node_leaving("local", time.time() + 120.0)  # a planned end
    await until(lambda: bench.system.describe("a")["status"] == "moving")
    await until(lambda: host.host._cells["a"]._held)  # type: ignore[attr-defined]
    if how == "the head":
        await bench.system.node_leaving("local", time.time() + 0.1)
    else:
        host.notice_seconds = 0.1  # type: ignore[attr-defined]
    with pytest.raises(UnavailableError, match="was stopped while it worked"):
        await asked
    await until(lambda: bench.system.describe("a")["status"] == "running")
    assert await bench.ask("a", 2, capability="count") == 2


async def test_an_agent_whose_snapshot_fails_moves_all_the_same(bench: AgentBench) -> None:
    await bench.start(Speechless, name="a")
    left = moving(bench, "a")
    await bench.system.node_leaving("local", time.time() + 1.0)
    await until(left)
    assert await bench.ask("count", 1) == 1


async def test_what_may_be_begun_anew_is_so_though_nobody_asks(bench: AgentBench) -> None:
    await bench.start(Counter, name="a")
    await bench.send("a", "r", capability="redo")
    await bench.send("a", "s", capability="slow")
    await until(lambda: set(Counter.handled) == {"r", "s"})
    left = moving(bench, "a")
    await bench.system.node_leaving("local", time.time() + 0.1)
    await until(left)
    await until(lambda: Counter.handled.count("r") == 2)
    Counter.gate.set()
    await until(lambda: bench.system.describe("a")["load"] == 0)
    assert sorted(Counter.handled) == ["r", "r", "s"]


async def test_a_message_that_cannot_be_carried_along_keeps_none_of_the_others(
    bench: AgentBench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.start(Counter, name="a")
    await bench.start(Teller, name="teller")
    await bench.ask("tell", ["a", "count", "state"])
    asked = asyncio.create_task(bench.ask("a", "s", capability="only"))
    await until(lambda: "s" in Counter.handled)
    await bench.ask("tell", ["a", "only", "a lock"])
    await bench.ask("tell", ["a", "only", "kept"])
    left = moving(bench, "a")
    await bench.system.node_leaving("local", time.time() + 4.0)
    Counter.gate.set()
    await until(left)
    assert await asked == "s"
    await until(lambda: "kept" in Counter.handled)
    assert "a message is lost" in caplog.text
    assert await bench.ask("count", 1) == 2


async def test_a_machine_that_ends_while_its_agents_leave(bench: AgentBench) -> None:
    for name in ("a", "b"):
        await bench.start(Counter, name=name, options={"snapshot_seconds": 0.01})
    assert await bench.ask("a", 1, capability="count") == 1

    async def saved() -> bool:  # an earlier save may have found it at 0
        return await bench.store.snapshot("a") == b'j{"count": 1}'

    await until(saved)
    asked = asyncio.create_task(bench.ask("b", "s", capability="slow"))
    await until(lambda: "s" in Counter.handled)
    host = bench.system.describe("a")["host"]
    await bench.system.node_leaving("local", time.time() + 60.0)
    await until(lambda: bench.system.describe("b")["status"] == "moving")
    await bench.hosts.kill(host)
    with pytest.raises(UnavailableError):
        await asked
    # sooner than the minute that there would have been
    assert await bench.ask("b", 1, capability="count") == 1
    assert await bench.ask("a", 1, capability="count") == 2


class Late(Counter):
    started: ClassVar[list[str]] = []

    async def on_start(self) -> None:
        self.started.append(self.name)
        await self.gate.wait()


async def test_an_agent_that_starts_on_a_machine_that_leaves_starts_elsewhere(
    bench: AgentBench,
) -> None:
    Late.started = []
    await bench.start(Counter, name="a")
    old = bench.system.describe("a")["host"]
    starting = asyncio.create_task(bench.start(Late, name="late"))
    await until(lambda: Late.started == ["late"])
    await bench.system.node_leaving("local", time.time() + 1.0)
    Counter.gate.set()
    await starting
    assert bench.system.describe("late")["host"] != old
    assert Late.started == ["late", "late"]
    assert await bench.ask("late", 1, capability="count") == 1
    await until(lambda: bench.system.describe("a")["status"] == "running")
    assert bench.system.describe("a")["host"] == bench.system.describe("late")["host"]


async def test_messages_wait_for_an_agent_that_finds_no_machine(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.agents.watching._NO_MACHINE_SECONDS", 0.01)
    await bench.start(Counter, name="a")
    asked = asyncio.create_task(bench.ask("a", "first", capability="only"))
    await until(lambda: Counter.handled == ["first"])
    await bench.send("a", "older", capability="only")
    await bench.send("a", "too late", capability="only", deadline_seconds=0.5)
    launch, no_machine = bench.hosts.launch, asyncio.Event()

    async def refuse(plan: HostPlan) -> HostHandle:
        if not no_machine.is_set():
            raise UnavailableError("no machine is to be had")
        return await launch(plan)

    monkeypatch.setattr(bench.hosts, "launch", refuse)
    await bench.system.node_leaving("local", time.time() + 4.0)
    Counter.gate.set()
    assert await asked == "first"
    await until(lambda: "no machine" in str(bench.system.describe("a")["reason"]))
    newer = asyncio.create_task(bench.send("a", "newer", capability="only"))
    await asyncio.sleep(0.6)  # past the deadline of one of them
    no_machine.set()
    await newer
    await until(lambda: "newer" in Counter.handled)
    assert Counter.handled == ["first", "older", "newer"]
