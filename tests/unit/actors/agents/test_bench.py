"""Agents on the bench: messages, deadlines, overflow, errors, topics. All but Ray is real."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from actors.agent import Agent, Message, capability
from actors.agents import exchange
from actors.agents.bench import AgentBench
from ironcliw.errors import (
    AgentError,
    ConflictError,
    DeadlineExceededError,
    NotFoundError,
    OverloadedError,
    RequestError,
    SettingsError,
    UnavailableError,
)
from tests.waiting import until


class Worker(Agent):
    """Does what a test needs."""

    gate: ClassVar[asyncio.Event]
    """What `wait` waits for; each test has a new one."""
    open: ClassVar[threading.Event]
    """The same for `thread`."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @capability("echo", concurrency=8, idempotent=True)
    async def echo(self, body: Any) -> Any:
        self.seen.append(body)
        return body

    @capability("wait")
    async def wait(self, body: Any) -> Any:
        self.seen.append(body)
        await self.gate.wait()
        return body

    @capability("seen", concurrency=8)
    async def what_it_saw(self, _: Any) -> list[Any]:
        return self.seen

    @capability("raise", concurrency=8)
    async def fail(self, body: Any) -> None:
        kinds = {"key": KeyError, "request": RequestError, "exit": SystemExit}
        raise {**kinds, "memory": MemoryError}[body]("as asked")

    @capability("thread", concurrency=2)
    def thread(self, _: Any) -> str:
        assert self.open.wait(60)
        return threading.current_thread().name

    @capability("lock")
    async def lock(self, _: Any) -> Any:
        return threading.Lock()

    async def on_message(self, message: Message) -> Any:
        return (message.sender, message.body)


class Other(Agent):
    @capability("forward", concurrency=64)
    async def forward(self, body: dict[str, Any]) -> Any:
        return await self.ask(**body)

    @capability("listen")
    async def listen(self, topic: str) -> None:
        self.heard: list[Any] = []
        await self.subscribe(topic, self._hear)

    async def _hear(self, body: Any) -> None:
        self.heard.append(body)

    @capability("heard")
    async def what_it_heard(self, topic: str | None) -> list[Any]:
        if topic:
            await self.unsubscribe(topic)
        return self.heard


@pytest.fixture
async def bench() -> AsyncIterator[AgentBench]:
    Worker.gate, Worker.open = asyncio.Event(), threading.Event()
    async with AgentBench() as bench:
        yield bench
        Worker.open.set()


async def test_a_question_is_answered(bench: AgentBench) -> None:
    await bench.start(Worker, name="worker")
    assert await bench.ask("echo", {"a": [1]}) == {"a": [1]}
    assert await bench.ask("worker", 5, capability="echo") == 5
    assert await bench.ask("worker", "hello") == (None, "hello")


async def test_agents_ask_each_other_and_say_who_they_are(bench: AgentBench) -> None:
    await bench.start(Worker, name="worker")
    await bench.start(Other, name="other")
    assert await bench.ask("forward", {"target": "echo", "body": 3}) == 3
    assert await bench.ask("forward", {"target": "worker", "body": 3}) == ("other", 3)


async def test_questions_beyond_the_concurrency_wait_in_turn(bench: AgentBench) -> None:
    await bench.start(Worker)
    asked = [asyncio.create_task(bench.ask("wait", i)) for i in range(4)]

    async def begun() -> list[Any]:
        found: list[Any] = await bench.ask("seen")
        return found

    await until(begun)
    assert await begun() == [0]
    Worker.gate.set()
    assert await asyncio.gather(*asked) == [0, 1, 2, 3]


async def test_the_urgent_overtakes(bench: AgentBench) -> None:
    await bench.start(Worker)
    asked = [asyncio.create_task(bench.ask("wait", "first"))]
    await bench.ask("echo", "begun")
    for priority in ("low", "critical"):
        asked.append(asyncio.create_task(bench.ask("wait", priority, priority=priority)))
        await bench.ask("echo", "sent")
    Worker.gate.set()
    await asyncio.gather(*asked)
    seen = [one for one in await bench.ask("seen") if one in ("first", "low", "critical")]
    assert seen == ["first", "critical", "low"]


@pytest.fixture
def agent_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks gives up so late that the agent's own word comes first, at any speed."""
    monkeypatch.setattr(exchange, "_GRACE", 60.0)


@pytest.mark.usefixtures("agent_says_so")
async def test_what_takes_too_long_is_broken_off(bench: AgentBench) -> None:
    await bench.start(Worker, name="worker")
    with pytest.raises(DeadlineExceededError, match=r"'wait' took longer than the 0\.\d+ s"):
        await bench.ask("wait", 1, deadline_seconds=0.5)
    # and its place is free again
    Worker.gate.set()
    assert await bench.ask("wait", 2) == 2


async def test_a_plain_method_runs_in_a_thread(bench: AgentBench) -> None:
    await bench.start(Worker)
    held = asyncio.create_task(bench.ask("thread"))
    assert await bench.ask("echo", 1) == 1
    assert not held.done()
    Worker.open.set()
    assert (await held).startswith("agent")


async def test_a_thread_that_hangs_keeps_its_place_and_its_asker_is_told(bench: AgentBench) -> None:
    await bench.start(Worker)
    with pytest.raises(DeadlineExceededError, match=r"its method is still at it|did not answer"):
        await bench.ask("thread", deadline_seconds=0.05)
    Worker.open.set()
    assert (await bench.ask("thread")).startswith("agent")


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("key", AgentError, r"agent 'worker': 'raise' raised KeyError: 'as asked'"),
        ("request", RequestError, "as asked"),
    ],
)
async def test_what_an_agent_raises_goes_to_whoever_asked(
    bench: AgentBench, how: str, kind: type[Exception], words: str
) -> None:
    await bench.start(Worker, name="worker")
    with pytest.raises(kind, match=words):
        await bench.ask("raise", how)
    assert await bench.ask("echo", 1) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "as asked; it has no memory_limit_gb, so its machine gives no more$"),
        ({"isolated": True, "memory_limit_gb": 0.5}, "as asked; its memory_limit_gb is 0.5$"),
    ],
)
async def test_who_gets_no_memory_is_told_the_limit(
    bench: AgentBench, options: dict[str, Any], words: str
) -> None:
    await bench.start(Worker, name="worker", options=options)
    with pytest.raises(AgentError, match=rf"'raise' raised MemoryError: {words}"):
        await bench.ask("raise", "memory")


async def test_an_agent_that_exits_takes_nobody_along(bench: AgentBench) -> None:
    await bench.start(Worker, name="worker")
    await bench.start(Other, name="other")
    with pytest.raises(AgentError, match=r"called sys.exit\('as asked'\)"):
        await bench.ask("raise", "exit")
    # it is of no use any more, and is started again
    await until(lambda: bench.system.describe("worker")["restarts"] == 1)
    assert await bench.ask("echo", 1) == 1
    assert bench.system.describe("other")["restarts"] == 0


async def test_a_full_mailbox_refuses(bench: AgentBench) -> None:
    await bench.start(Worker, name="worker", options={"mailbox": 2})
    asked = [asyncio.create_task(bench.ask("wait", i)) for i in range(3)]
    await until(lambda: bench.system.describe("worker")["load"] == 3)
    with pytest.raises(OverloadedError, match=r"mailbox of agent 'worker' is full: 2 messages"):
        await bench.ask("wait", 3)
    Worker.gate.set()
    assert await asyncio.gather(*asked) == [0, 1, 2]


async def test_a_full_mailbox_drops_the_oldest(bench: AgentBench) -> None:
    await bench.start(Worker, name="worker", options={"mailbox": 1, "overflow": "drop_oldest"})
    first = asyncio.create_task(bench.ask("wait", 0))
    await until(lambda: bench.system.describe("worker")["load"] == 1)
    second = asyncio.create_task(bench.ask("wait", 1))
    await until(lambda: bench.system.describe("worker")["load"] == 2)
    third = asyncio.create_task(bench.ask("wait", 2))
    asked = [first, second, third]
    await until(second.done)
    Worker.gate.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert results[0] == 0
    assert isinstance(results[1], OverloadedError)
    assert "its place was taken by a newer message" in str(results[1])
    assert results[2] == 2


@pytest.mark.usefixtures("agent_says_so")
async def test_a_full_mailbox_has_its_senders_wait_in_turn(bench: AgentBench) -> None:
    await bench.start(Worker, name="worker", options={"mailbox": 1, "overflow": "wait"})
    asked = [asyncio.create_task(bench.ask("echo", i)) for i in range(50)]
    assert await asyncio.gather(*asked) == list(range(50))
    # a report from the midst of those would pass for one of the next
    await until(lambda: bench.system.describe("worker")["load"] == 0)
    asked = [asyncio.create_task(bench.ask("wait", i)) for i in range(4)]
    await until(lambda: bench.system.describe("worker")["load"] == 2)
    with pytest.raises(OverloadedError, match="no room before the deadline"):
        await bench.ask("wait", 9, deadline_seconds=0.05)
    Worker.gate.set()
    assert await asyncio.gather(*asked) == [0, 1, 2, 3]


async def test_nobody_has_it_fails_or_waits_by_choice(bench: AgentBench) -> None:
    with pytest.raises(NotFoundError, match="no agent is named 'echo' or offers it"):
        await bench.ask("echo", 1)
    waiting = asyncio.create_task(bench.ask("echo", 1, wait_seconds=10))
    await bench.start(Worker)
    assert await waiting == 1
    with pytest.raises(NotFoundError, match="no agent is named 'fly'"):
        await bench.ask("fly", 1, wait_seconds=0.1)


async def test_an_agent_without_the_capability(bench: AgentBench) -> None:
    await bench.start(Worker, name="worker")
    with pytest.raises(RequestError, match="agent 'worker' has no capability 'fly'"):
        await bench.ask("worker", capability="fly")
    await bench.start(Other, name="other")
    with pytest.raises(RequestError, match=r"capabilities alone \(forward, heard, listen\)"):
        await bench.ask("other", 1)


async def test_values_that_cannot_be_sent(bench: AgentBench) -> None:
    await bench.start(Worker)
    with pytest.raises(RequestError, match=r"the body of a message cannot be sent .*: lock"):
        await bench.ask("echo", threading.Lock())
    with pytest.raises(RequestError, match=r"the answer of an agent cannot be sent .*: lock"):
        await bench.ask("lock")
    # whatever was sent in the same moment arrives
    results = await asyncio.gather(
        *(bench.ask("echo", b) for b in (1, threading.Lock(), 2)), return_exceptions=True
    )
    assert results[::2] == [1, 2]


async def test_topics_reach_all_who_listen(bench: AgentBench) -> None:
    for name in ("one", "two", "three"):
        await bench.start(Other, name=name)
    for name in ("one", "two"):
        await bench.ask(name, "news", capability="listen")
    assert await bench.publish("news", {"price": 3}) == 2
    for name in ("one", "two"):
        assert await bench.ask(name, None, capability="heard") == [{"price": 3}]
    await bench.ask("one", "news", capability="heard")
    bench.system.exchange.memory.forget_topic("news")
    assert await bench.publish("news", 4) == 1
    assert await bench.publish("silence", 4) == 0


async def test_a_stopped_agent_finishes_first(bench: AgentBench) -> None:
    await bench.start(Worker, name="worker")
    asked = asyncio.create_task(bench.ask("thread"))
    await bench.ask("echo", 1)
    stopping = asyncio.create_task(bench.system.stop_agent("worker"))
    await asyncio.wait([stopping], timeout=0.05)
    assert not stopping.done()
    Worker.open.set()
    assert (await asked).startswith("agent")
    await stopping
    with pytest.raises(NotFoundError):
        await bench.ask("echo", 1)


async def test_stopping_breaks_off_what_does_not_end(bench: AgentBench) -> None:
    await bench.start(Worker, name="worker")
    asked = asyncio.create_task(bench.ask("wait", 1))
    await bench.ask("echo", 1)
    await bench.system.stop_agent("worker", 0.05)
    with pytest.raises(UnavailableError, match="was stopped"):
        await asked


async def test_names_are_taken_once(bench: AgentBench) -> None:
    await bench.start(Worker, name="worker")
    with pytest.raises(ConflictError, match="there is an agent 'worker' already"):
        await bench.start(Worker, name="worker")
    assert await bench.ask("echo", 1) == 1


class Broken(Agent):
    def __init__(self, where: str) -> None:
        if where == "init":
            raise ValueError("cannot be")
        self.where = where

    async def on_start(self) -> None:
        if self.where == "start":
            raise OSError("no disk")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("init", "'b' could not be made: ValueError: cannot be"),
        ("start", "'b' could not be started: OSError: no disk"),
    ],
)
async def test_an_agent_that_does_not_start(bench: AgentBench, where: str, words: str) -> None:
    with pytest.raises(AgentError, match=words):
        await bench.start(Broken, name="b", where=where)
    # nothing of it is left, neither here nor in the store
    assert bench.system.agents() == []
    assert await bench.store.agents() == []


async def test_what_cannot_be_asked_for(bench: AgentBench) -> None:
    await bench.start(Worker, name="worker")
    for seconds in (0, -1, float("nan")):
        with pytest.raises(RequestError, match=r"deadline_seconds is .*; give a finite number"):
            await bench.ask("echo", 1, deadline_seconds=seconds)
    with pytest.raises(RequestError, match="'urgent' is no priority"):
        await bench.ask("echo", 1, priority="urgent")
    with pytest.raises(RequestError, match="'best' is no strategy"):
        await bench.ask("echo", 1, strategy="best")
    with pytest.raises(RequestError, match="key 'k' is for durable messages"):
        await bench.send("echo", 1, key="k")
    with pytest.raises(SettingsError, match="has place 'spot' and this head has no machines"):
        await bench.start(Worker, options={"place": "spot"})


async def test_a_capability_that_keeps_failing_is_not_asked_for_a_while(bench: AgentBench) -> None:
    await bench.start(Worker, name="worker")
    for _ in range(8):
        with pytest.raises(AgentError):
            await bench.ask("raise", "key")
    with pytest.raises(UnavailableError, match="'raise' failed 8 times in a row") as caught:
        await bench.ask("raise", "key")
    assert caught.value.retry_after > 1
    # who names the agent means it; and other capabilities have breakers of their own
    with pytest.raises(AgentError):
        await bench.ask("worker", "key", capability="raise")
    assert await bench.ask("echo", 1) == 1
