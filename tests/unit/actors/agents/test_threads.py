"""Plain methods, which run in threads: who is blamed for their length, and what stops with them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from actors import supervisor
from actors.agent import Agent, capability
from actors.agents import exchange, host, watching
from actors.agents.bench import AgentBench
from ironcliw.errors import DeadlineExceededError
from tests.waiting import until

NAMES = ("busy", "waits")


class Plodder(Agent):
    """Is at it until the gate opens."""

    gate: ClassVar[threading.Event]
    begun: ClassVar[list[Any]]

    def __init__(self) -> None:
        self.half = False

    def snapshot(self) -> Any:
        return {"half": self.half}

    @capability("plod")
    def plod(self, body: Any) -> Any:
        self.begun.append(body)
        self.half = True
        self.gate.wait(60)
        self.half = False
        return body

    @capability("quick")
    def quick(self, body: Any) -> Any:
        return body

    @capability("hang", timeout_seconds=0.1)
    def hang(self, body: Any) -> Any:
        return self.plod(body)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AgentBench]:
    Plodder.gate, Plodder.begun = threading.Event(), []
    monkeypatch.setattr(supervisor, "OVERDUE_SECONDS", 0.2)
    monkeypatch.setattr(host, "_THREADS", 1)
    # so that the agent's own word comes before its asker gives up, at any speed
    monkeypatch.setattr(exchange, "_GRACE", 60.0)
    async with AgentBench() as bench:
        yield bench
        Plodder.gate.set()


async def polls(bench: AgentBench, name: str, times: int) -> None:
    """Wait until the watch has looked at an agent so often."""
    [found] = [one for one in await bench.hosts.find() if name in one.host._cells]  # type: ignore[attr-defined]
    seen, report = 0, found.report

    async def counted() -> Any:
        nonlocal seen
        seen += 1
        return await report()

    found.report = counted  # type: ignore[method-assign]
    await until(lambda: seen >= times)


async def test_an_askers_deadline_is_not_the_agents_fault(bench: AgentBench) -> None:
    await bench.start(Plodder, name="slow")
    with pytest.raises(DeadlineExceededError, match="its method is still at it"):
        await bench.ask("plod", 1, deadline_seconds=0.05)
    await polls(bench, "slow", 30)  # some 0.6 s, three times what is forgiven
    assert bench.system.describe("slow")["restarts"] == 0
    Plodder.gate.set()
    assert await bench.ask("plod", 2) == 2


async def test_its_own_limit_is(bench: AgentBench) -> None:
    await bench.start(Plodder, name="slow")
    with pytest.raises(DeadlineExceededError, match="its method is still at it"):
        await bench.ask("hang", 1)
    await until(lambda: bench.system.describe("slow")["restarts"] == 1)


async def test_to_wait_for_a_thread_is_not(bench: AgentBench) -> None:
    await bench.start(Plodder, name="busy")
    await bench.start(Plodder, name="waits")
    asked = asyncio.create_task(bench.ask("busy", 1, capability="plod"))
    await until(lambda: Plodder.begun == [1])
    # its own limit counts from when it is begun, so only its asker's deadline can pass
    with pytest.raises(DeadlineExceededError, match="no thread was free for its method"):
        await bench.ask("waits", 2, capability="hang", deadline_seconds=0.3)
    await polls(bench, "waits", 30)
    assert bench.system.describe("waits")["restarts"] == 0
    Plodder.gate.set()
    assert await asked == 1
    assert await bench.ask("waits", 3, capability="plod") == 3
    # nobody wanted it any more, so it was not done
    assert Plodder.begun == [1, 3]


async def test_agents_leave_a_process_whose_threads_hang(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOST_THREADS", 1)
    await bench.start(Plodder, name="hangs")
    await bench.start(Plodder, name="other")
    [old] = await bench.hosts.find()
    with pytest.raises(DeadlineExceededError, match="its method is still at it"):
        await bench.ask("hangs", 1, capability="hang")
    # the one thread is lost: nothing plain would ever be done there
    await until(lambda: bench.system.describe("other")["host"] not in (None, old.name))
    assert await bench.ask("other", 2, capability="quick") == 2
    assert bench.system.describe("other")["restarts"] == 0
    await until(lambda: old.dead)  # type: ignore[attr-defined]


async def test_a_thread_that_ends_after_all_is_not_lost(bench: AgentBench) -> None:
    await bench.start(Plodder, name="hangs")
    [handle] = await bench.hosts.find()
    with pytest.raises(DeadlineExceededError, match="its method is still at it"):
        await bench.ask("hangs", 1, capability="hang")

    async def lost() -> int:
        return (await handle.report()).lost_threads

    await until(lost)
    Plodder.gate.set()

    async def none_lost() -> bool:
        return not await lost()

    await until(none_lost)


async def test_methods_that_get_no_thread_are_told_of_once(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "STARVED_SECONDS", 0.1)
    await bench.start(Plodder, name="busy")
    await bench.start(Plodder, name="waits")
    [handle] = await bench.hosts.find()
    asked = [asyncio.create_task(bench.ask(name, 1, capability="plod")) for name in NAMES]
    words = "a plain method has waited for a thread for"
    await until(lambda: words in caplog.text)
    await polls(bench, "busy", 5)
    assert caplog.text.count(words) == 1
    Plodder.gate.set()
    await asyncio.gather(*asked)
    assert (await handle.report()).thread_wait_seconds == 0.0


async def test_agents_that_get_no_thread_move_and_who_has_it_stays(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "STARVED_SECONDS", 0.05)
    monkeypatch.setattr(supervisor, "STARVED_SECONDS", 0.2)
    for name in ("busy", "waits", "idle"):
        await bench.start(Plodder, name=name)
    [old] = await bench.hosts.find()
    # without a limit of its own it may take as long as it takes
    asked = asyncio.create_task(bench.ask("busy", 1, capability="plod"))
    await until(lambda: Plodder.begun == [1])
    assert await bench.ask("waits", 2, capability="quick") == 2
    where = {name: bench.system.describe(name)["host"] for name in ("busy", "waits", "idle")}
    assert where["waits"] not in (None, old.name)
    assert where["busy"] == where["idle"] == old.name
    assert bench.system.describe("waits")["restarts"] == 0
    Plodder.gate.set()
    assert await asked == 1
    assert Plodder.begun == [1]


async def test_a_state_in_the_midst_of_a_method_is_not_saved(bench: AgentBench) -> None:
    await bench.start(Plodder, name="slow")
    await bench.store.save_snapshots({"slow": b'j{"half": false}'})
    asked = asyncio.create_task(bench.ask("slow", 1, capability="plod"))
    await until(lambda: Plodder.begun == [1])
    [handle] = await bench.hosts.find()
    handed = await handle.hand_over("slow", 0.05)
    assert handed.state is None
    await asyncio.gather(asked, return_exceptions=True)
    await bench.system.stop_agent("slow", 0.05)


async def test_what_waits_for_a_thread_is_begun_elsewhere(bench: AgentBench) -> None:
    await bench.start(Plodder, name="busy")
    await bench.start(Plodder, name="waits")
    asked = asyncio.create_task(bench.ask("busy", 1, capability="plod"))
    await until(lambda: Plodder.begun == [1])
    await bench.send("waits", 2, capability="plod")
    [handle] = await bench.hosts.find()
    handed = await handle.hand_over("waits", 0.05)
    assert [parcel.body for parcel in handed.parcels] == [2]
    assert handed.state == b'j{"half": false}'
    Plodder.gate.set()
    assert await asked == 1
    assert Plodder.begun == [1]
