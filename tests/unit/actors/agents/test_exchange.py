"""The post office: agents that move away, mailboxes that stay full, askers that give up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from actors.agent import Agent, capability
from actors.agents import cell, exchange
from actors.agents.bench import AgentBench
from ironcliw.errors import DeadlineExceededError, OverloadedError, UnavailableError
from tests.waiting import until


class Worker(Agent):
    gate: ClassVar[asyncio.Event]
    seen: ClassVar[list[Any]]

    @capability("note", idempotent=True)
    async def note(self, body: Any) -> Any:
        self.seen.append(body)
        return body

    @capability("wait")
    async def wait(self, body: Any) -> Any:
        self.seen.append(body)
        await self.gate.wait()
        return body


class Clerk(Agent):
    times: ClassVar[int]

    @capability("relay")
    async def relay(self, how: str) -> Any:
        Clerk.times += 1
        if how == "ask":
            return await self.ask("worker", how, capability="note")
        await self.send("worker", how, capability="note")
        return "sent"


@pytest.fixture
async def bench() -> AsyncIterator[AgentBench]:
    Worker.gate, Worker.seen, Clerk.times = asyncio.Event(), [], 0
    async with AgentBench() as bench:
        yield bench
        Worker.gate.set()


@pytest.mark.parametrize(("how", "answer"), [("ask", "ask"), ("send", "sent")])
async def test_a_neighbour_that_moves_is_found_again(
    bench: AgentBench, how: str, answer: str
) -> None:
    await bench.start(Worker, name="worker")
    await bench.start(Clerk, name="clerk")
    [host] = await bench.hosts.find()
    await host.host._cells["worker"].hold(0.0)  # type: ignore[attr-defined]
    asked = asyncio.create_task(bench.ask("relay", how))
    await until(lambda: bench.system.describe("clerk")["load"] == 1)
    await bench.system.restart_agent("worker")
    assert await asked == answer
    await until(lambda: Worker.seen == [how])
    assert Clerk.times == 1


async def test_a_mailbox_that_stays_full_is_not_waited_for_for_ever(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell, "DEFAULT_SECONDS", 0.1)
    await bench.start(Worker, name="worker", options={"mailbox": 1, "overflow": "wait"})
    for number in range(2):
        await bench.send("worker", number, capability="wait")
    with pytest.raises(OverloadedError, match="no room before the deadline"):
        await bench.send("worker", 2, capability="wait")
    Worker.gate.set()
    await until(lambda: Worker.seen == [0, 1])
    # what was refused does not come all the same
    assert await bench.ask("worker", 3, capability="wait") == 3
    assert Worker.seen == [0, 1, 3]


async def test_a_process_that_does_not_say_that_it_took_a_message(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "DEFAULT_SECONDS", 0.05)
    monkeypatch.setattr(exchange, "_ANSWER_SECONDS", 0.05)
    await bench.start(Worker, name="worker")
    [host] = await bench.hosts.find()

    async def silent(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(host, "deliver", silent)
    with pytest.raises(DeadlineExceededError, match=r"'worker' has not said within 0\.05 s"):
        await bench.send("worker", 1, capability="note")


async def test_askers_that_give_up_open_no_circuit(bench: AgentBench) -> None:
    await bench.start(Worker, name="worker")
    for number in range(10):
        asked = asyncio.create_task(bench.ask("wait", number))
        await until(lambda: bench.system.exchange._outstanding["worker"] == 1)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    Worker.gate.set()
    assert await bench.ask("wait", "x") == "x"
    assert bench.system.exchange.breakers.open() == []


async def test_answers_that_do_not_come_do(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.start(Worker, name="worker")
    [host] = await bench.hosts.find()

    async def silent(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(host, "deliver", silent)
    for number in range(8):
        with pytest.raises(DeadlineExceededError, match=r"'wait' did not answer within 0\.01 s"):
            await bench.ask("wait", number, deadline_seconds=0.01)
    with pytest.raises(UnavailableError, match="'wait' failed 8 times in a row"):
        await bench.ask("wait", 9)
