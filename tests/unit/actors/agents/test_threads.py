"""Plain methods, which run in threads: who is blamed for their length, and what stops with them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from actors import supervisor
from actors.agent import Agent, capability
from actors.agents import host
from actors.agents.bench import AgentBench
from ironcliw.errors import DeadlineExceededError
from tests.unit.actors.agents.waiting import until


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
        self.gate.wait(30)
        self.half = False
        return body

    @capability("hang", timeout_seconds=0.1)
    def hang(self, body: Any) -> Any:
        return self.plod(body)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AgentBench]:
    Plodder.gate, Plodder.begun = threading.Event(), []
    monkeypatch.setattr(supervisor, "OVERDUE_SECONDS", 0.2)
    monkeypatch.setattr(host, "_THREADS", 1)
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
