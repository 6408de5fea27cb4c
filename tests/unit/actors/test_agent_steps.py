"""Agent steps: whom they ask, until when, and that they leave off when they are told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from typing import Any

import pytest

from actors.agent import Agent, capability
from actors.agents.bench import AgentBench
from actors.agents.hosts import HostHandle, HostPlan
from actors.steps import agent_call
from actors.steps.agent_call import AgentCalls
from actors.steps.agent_choice import declares_idempotent
from actors.steps.kinds import Done
from actors.workflow.seats import SEAT
from actors.workflow.tasks import CLOSING, StepError, StepTask
from ironcliw.errors import UnavailableError
from tests.waiting import until

NUMBERS = itertools.count()


class Clerk(Agent):
    """Notes what it begins with and what it was broken off at; `gate` holds it up."""

    begun: list[str]
    broken_off: list[str]
    gate: threading.Event
    gates: list[threading.Event]
    well = True

    @capability("file")
    async def file(self, body: dict[str, Any]) -> str:
        self.begun.append(body["name"])
        try:
            await asyncio.sleep(body.get("seconds", 0.0))
        except asyncio.CancelledError:
            self.broken_off.append(body["name"])
            raise
        return f"filed {body['name']}"

    @capability("sulk")
    async def sulk(self, body: dict[str, Any]) -> None:
        self.begun.append(body["name"])
        gate = self.gate
        for _ in range(500):
            if gate.is_set():
                break
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    @capability("carve", idempotent=True)
    def carve(self, body: dict[str, Any]) -> None:
        gate = threading.Event()
        self.gates.append(gate)
        self.begun.append(body["name"])
        gate.wait(20)

    @capability("stamp")
    def stamp(self, body: dict[str, Any]) -> str:
        self.begun.append(body["name"])
        self.gate.wait(60)
        return "stamped"

    @capability("sicken")
    async def sicken(self, _: Any) -> None:
        self.well = False

    def healthy(self) -> bool:
        return self.well

    @capability("weigh", idempotent=True, timeout_seconds=0.1)
    def weigh(self, body: dict[str, Any]) -> str:
        return self.stamp(body)


class Roamer(Agent):
    @capability("file")
    async def file(self, body: dict[str, Any]) -> str:
        return "from somewhere"


class Reader(Agent):
    @capability("look", idempotent=True)
    async def look(self, body: Any) -> None:
        pass


class Both(Reader):
    @capability("write")
    async def write(self, body: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def fresh() -> None:
    Clerk.begun, Clerk.broken_off, Clerk.gate, Clerk.gates = [], [], threading.Event(), []


def task(target: str = "file", changes: dict[str, Any] | None = None, **inputs: Any) -> StepTask:
    key = f"w/s/{next(NUMBERS)}"
    return StepTask("w", "s", None, 1, "agent", target, inputs, key, **(changes or {}))


async def run(bench: AgentBench, task: StepTask) -> Done:
    return await AgentCalls(bench.system).run(task, "local", lambda node: None)


async def begun(bench: AgentBench, task: StepTask) -> asyncio.Task[Done]:
    """A step that an agent works on."""
    running = asyncio.create_task(run(bench, task))
    await until(lambda: task.inputs["name"] in Clerk.begun)
    return running


async def test_a_cancelled_step_has_left_off_when_it_ends() -> None:
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        running = await begun(bench, task(name="a", seconds=60.0))
        running.cancel("turned")
        with pytest.raises(asyncio.CancelledError):
            await running
        assert Clerk.broken_off == ["a"]
        records = bench.system.registry.get("clerk").records
        await until(lambda: "file" in records)
        assert records["file"].failures == 0, "it is no fault of the agent's"


async def test_a_message_that_waits_is_taken_back() -> None:
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        first = await begun(bench, task(name="a", seconds=0.3))
        second = asyncio.create_task(run(bench, task(name="b")))
        await until(lambda: bench.system.describe("clerk")["load"] == 2)
        second.cancel("turned")
        with pytest.raises(asyncio.CancelledError):
            await second
        assert json.loads((await first).content) == "filed a"
        assert json.loads((await run(bench, task(name="c"))).content) == "filed c"
        assert Clerk.begun == ["a", "c"]


async def test_a_message_that_waits_for_room_is_taken_back() -> None:
    async with AgentBench() as bench:
        options = {"mailbox": 1, "overflow": "wait"}
        await bench.start(Clerk, name="clerk", options=options)
        first = await begun(bench, task(name="a", seconds=0.5))
        waiting = [asyncio.create_task(run(bench, task(name=name))) for name in "bc"]
        await until(lambda: bench.system.describe("clerk")["load"] == 2)
        await asyncio.sleep(0.05)  # and the third has come as far as it can
        waiting[1].cancel("turned")
        with pytest.raises(asyncio.CancelledError):
            await waiting[1]
        await first
        await waiting[0]
        await run(bench, task(name="d"))
        assert Clerk.begun == ["a", "b", "d"]


async def test_a_message_that_is_taken_back_leaves_its_place() -> None:
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk", options={"mailbox": 1})
        first = await begun(bench, task(name="a", seconds=1.0))
        second = asyncio.create_task(run(bench, task(name="b")))
        await until(lambda: bench.system.describe("clerk")["load"] == 2)
        second.cancel("turned")
        with pytest.raises(asyncio.CancelledError):
            await second
        assert json.loads((await run(bench, task(name="c"))).content) == "filed c"
        await first
        assert Clerk.begun == ["a", "c"]


async def test_whoever_waits_for_room_has_the_place_of_one_that_is_taken_back() -> None:
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk", options={"mailbox": 1, "overflow": "wait"})
        first = await begun(bench, task(name="a", seconds=60.0))
        second = asyncio.create_task(run(bench, task(name="b")))
        await until(lambda: bench.system.describe("clerk")["load"] == 2)
        third = asyncio.create_task(run(bench, task("stamp", name="c")))
        await asyncio.sleep(0.05)  # and it has come as far as it can
        second.cancel("turned")
        # its method has a free hand, while the first one is still at it
        await until(lambda: Clerk.begun == ["a", "c"])
        Clerk.gate.set()
        assert json.loads((await third).content) == "stamped"
        first.cancel("turned")
        await asyncio.gather(first, second, return_exceptions=True)


@pytest.mark.parametrize("deaf", ["clerk", "reader"])
async def test_the_host_that_has_the_message_alone_is_asked(
    deaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def says_nothing(message_id: str, seconds: float) -> bool:
        raise UnavailableError("it does not answer")

    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        await bench.start(Reader, name="reader", options={"isolated": True})
        hosts = {host.name: host for host in await bench.hosts.find()}
        assert len(hosts) == 2
        monkeypatch.setattr(hosts[bench.system.describe(deaf)["host"]], "withdraw", says_nothing)
        running = await begun(bench, task(name="a", seconds=60.0))
        running.cancel("turned")
        expected = StepError if deaf == "clerk" else asyncio.CancelledError
        with pytest.raises(expected):
            await running


async def test_a_message_that_comes_after_it_was_withdrawn_is_not_taken() -> None:
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        host = bench.system.describe("clerk")["host"]
        assert await bench.system.withdraw("early", [host], 1.0)
        with pytest.raises(Exception, match="was withdrawn by its sender"):
            await bench.ask("file", {"name": "a"}, message_id="early")
        assert Clerk.begun == []


async def test_a_thread_that_goes_on_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        running = await begun(bench, task("stamp", name="a"))
        monkeypatch.setattr(agent_call, "WITHDRAW_SECONDS", 0.05)
        running.cancel("turned")
        with pytest.raises(StepError, match="was told to stop and may still be at it") as caught:
            await running
        assert caught.value.failure == "unstopped"
        Clerk.gate.set()


@pytest.mark.parametrize("target", ["stamp", "weigh"])
async def test_a_thread_that_goes_on_past_its_deadline_is_told_of(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_call, "WITHDRAW_SECONDS", 0.05)
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        # the workflow's deadline, or the capability's own limit
        changes = {"deadline": time.time() + 0.2} if target == "stamp" else {}
        with pytest.raises(StepError, match="was told to stop and may still be at it") as caught:
            await run(bench, task(target, changes, name="a"))
        assert caught.value.failure == "unstopped"
        Clerk.gate.set()


async def test_a_workflow_that_turns_meanwhile_does_not_make_it_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent_call, "WITHDRAW_SECONDS", 0.3)
    async with AgentBench() as bench:
        withdraw, asked = bench.system.withdraw, asyncio.Event()

        async def note(*words: Any) -> bool:
            asked.set()
            return await withdraw(*words)

        monkeypatch.setattr(bench.system, "withdraw", note)
        await bench.start(Clerk, name="clerk")
        running = await begun(bench, task("weigh", name="a"))
        await asked.wait()
        running.cancel("turned")
        with pytest.raises(StepError, match="may still be at it"):
            await running
        Clerk.gate.set()


async def test_a_thread_goes_on_after_its_agent_was_dropped() -> None:
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        await bench.start(Reader, name="reader")  # so that their process stays
        host = bench.system.describe("clerk")["host"]
        asked = asyncio.create_task(bench.ask("stamp", {"name": "a"}, message_id="m"))
        await until(lambda: Clerk.begun == ["a"])
        withdrawing = asyncio.create_task(bench.system.withdraw("m", [host], 20.0))
        await bench.ask("clerk", None, capability="sicken")
        await until(lambda: bench.system.describe("clerk")["restarts"] == 1)
        await asyncio.gather(asked, return_exceptions=True)
        assert not withdrawing.done()
        assert not await bench.system.withdraw("m", [host], 0.05), "nor for who asks only now"
        Clerk.gate.set()
        assert await withdrawing
        assert await bench.system.withdraw("m", [host], 20.0)


async def test_a_coroutine_that_does_not_leave_off_goes_on_after_its_agent_was_dropped() -> None:
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        await bench.start(Reader, name="reader")
        host = bench.system.describe("clerk")["host"]
        asked = asyncio.create_task(bench.ask("sulk", {"name": "a"}, message_id="m"))
        await until(lambda: Clerk.begun == ["a"])
        [handle] = await bench.hosts.find()
        await handle.drop_agent("clerk", "failed")
        assert not await bench.system.withdraw("m", [host], 0.05)
        Clerk.gate.set()
        assert await bench.system.withdraw("m", [host], 20.0)
        await asyncio.gather(asked, return_exceptions=True)


async def test_a_step_whose_agent_is_dropped_while_a_thread_is_at_it_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent_call, "WITHDRAW_SECONDS", 0.05)
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        await bench.start(Reader, name="reader")
        running = await begun(bench, task("stamp", name="a"))
        await bench.ask("clerk", None, capability="sicken")
        with pytest.raises(StepError, match="may still be at it"):
            await running
        Clerk.gate.set()


async def test_a_host_that_its_agent_left_is_asked_where_a_thread_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent_call, "WITHDRAW_SECONDS", 0.05)
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        await bench.start(Reader, name="reader")
        running = await begun(bench, task("carve", name="a"))
        [old] = await bench.hosts.find()
        # another process has the agent, and the message that was sent again
        bench.system._running.places[old.name].leaving = True
        await old.hand_over("clerk", 0.0)
        await bench.system.restart_agent("clerk")
        await until(lambda: bench.system.describe("clerk")["host"] not in (None, old.name))
        await until(lambda: Clerk.begun == ["a"] * 2)
        Clerk.gates.pop().set()
        running.cancel("turned")
        with pytest.raises(StepError, match="may still be at it"):
            await running
        Clerk.gates.pop().set()


async def test_a_thread_that_ends_in_time_has_been_stopped() -> None:
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        running = await begun(bench, task("stamp", name="a"))
        running.cancel("turned")
        await asyncio.sleep(0.05)
        assert not running.done(), "what undoes the step would begin too early"
        Clerk.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_an_orchestrator_that_ends_does_not_break_agents_off() -> None:
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        running = await begun(bench, task(name="a", seconds=0.1))
        running.cancel(CLOSING)
        with pytest.raises(asyncio.CancelledError):
            await running
        assert json.loads((await run(bench, task(name="b"))).content) == "filed b"
        assert Clerk.broken_off == []


@pytest.mark.parametrize("target", ["file", "stamp"])
async def test_the_next_orchestrator_has_agents_leave_off(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_call, "WITHDRAW_SECONDS", 0.05)
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        asked = task(target, name="a", seconds=60.0)
        running = await begun(bench, asked)
        running.cancel(CLOSING)
        await asyncio.gather(running, return_exceptions=True)
        await bench.close()
        later = AgentBench(store=bench.store, hosts=bench.hosts)
        ending = asyncio.create_task(AgentCalls(later.system).end(asked))
        await asyncio.sleep(0.05)
        assert not ending.done(), "nobody knows which hosts there are"
        await later.system.start()
        if target == "file":
            await ending
            assert Clerk.broken_off == ["a"]
        else:
            with pytest.raises(StepError, match="may still be at it"):
                await ending
            Clerk.gate.set()
        await later.close()


async def test_the_workflows_deadline_is_the_agents() -> None:
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        soon = {"deadline": time.time() + 0.2, "timeout_seconds": 50.0}
        with pytest.raises(StepError) as caught:
            async with asyncio.timeout(60):
                await run(bench, task(changes=soon, name="a", seconds=600.0))
        assert caught.value.failure == "timeout"
        assert Clerk.broken_off == ["a"]


async def test_a_private_step_asks_agents_that_never_leave_the_head() -> None:
    private = {"place": "private"}
    async with AgentBench() as bench:
        await bench.start(Roamer, name="roamer", options={"place": "any"})
        for target in ("file", "roamer"):
            with pytest.raises(StepError, match=r"may be in the cloud: roamer \(any\)") as caught:
                await run(bench, task(target, private, name="a"))
            assert not caught.value.retryable
        assert Clerk.begun == []
        await bench.start(Clerk, name="keeper", options={"place": "private"})
        for name in "abcdefgh":
            done = await run(bench, task(changes=private, name=name))
            assert json.loads(done.content) == f"filed {name}"


async def test_an_agent_that_is_named_does_the_only_thing_that_it_can() -> None:
    by_name = {"options": {"by": "name"}}
    async with AgentBench() as bench:
        await bench.start(Roamer, name="one")
        await bench.start(Clerk, name="several")
        done = await run(bench, task("one", by_name))
        assert json.loads(done.content) == "from somewhere"
        with pytest.raises(
            StepError, match=r"several capabilities: say which .*: carve, .*, weigh"
        ):
            await run(bench, task("several", by_name))
        method = {"options": {"by": "name", "method": "file"}}
        assert json.loads((await run(bench, task("several", method, name="a"))).content)


@pytest.mark.parametrize(
    ("target", "options", "expected"),
    [
        ("look", {"by": "capability"}, True),
        ("nobody-has", {"by": "capability"}, False),
        ("reader", {"by": "name"}, True),
        ("both", {"by": "name"}, False),
        ("both", {"by": "name", "method": "look"}, True),
        ("both", {"by": "name", "method": "write"}, False),
        ("both", {"by": "name", "method": "unknown"}, False),
        ("nobody", {"by": "name", "method": "look"}, False),
    ],
)
async def test_what_an_agent_declares(target: str, options: dict[str, Any], expected: bool) -> None:
    async with AgentBench() as bench:
        await bench.start(Reader, name="reader")
        await bench.start(Both, name="both")
        assert declares_idempotent(bench.system.registry, target, options) is expected


class Counted:
    """A seat that is looked at."""

    def __init__(self) -> None:
        self.taken = True

    def leave(self) -> None:
        self.taken = False

    def take(self) -> None:
        self.taken = True


async def test_a_step_whose_agent_is_not_there_has_no_seat() -> None:
    async with AgentBench() as bench:
        seat = Counted()
        SEAT.set(seat)
        waiting = {"options": {"by": "capability", "wait_seconds": 20.0}}
        running = asyncio.create_task(run(bench, task(changes=waiting, name="a", seconds=0.2)))
        await until(lambda: not seat.taken)
        await bench.start(Clerk, name="clerk")
        await until(lambda: "a" in Clerk.begun)
        assert seat.taken
        await running


async def test_a_step_whose_agent_moves_has_no_seat(monkeypatch: pytest.MonkeyPatch) -> None:
    async with AgentBench() as bench:
        await bench.start(Clerk, name="clerk")
        first = await begun(bench, task(name="a", seconds=60.0))
        seat = Counted()
        SEAT.set(seat)
        second = asyncio.create_task(run(bench, task(name="b")))
        await until(lambda: bench.system.describe("clerk")["load"] == 2)
        assert seat.taken
        launch, machine = bench.hosts.launch, asyncio.Event()

        async def late(plan: HostPlan) -> HostHandle:
            await machine.wait()
            return await launch(plan)

        monkeypatch.setattr(bench.hosts, "launch", late)
        await bench.system.node_leaving("local", time.time() + 0.1)
        await until(lambda: not seat.taken)
        machine.set()
        assert json.loads((await second).content) == "filed b"
        assert seat.taken
        await asyncio.gather(first, return_exceptions=True)
