"""The watch over hosts that do not answer, run what they must not, or are merely busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from actors.agent import Agent, capability
from actors.agents import running, watching
from actors.agents.bench import AgentBench
from actors.agents.hosts import LocalHandle, LocalHosts
from actors.agents.link import HostLostError
from actors.agents.records import MemoryStore
from actors.agents.reports import HostReport
from actors.agents.snapshots import Snapshots
from actors.registry import AgentStatus
from actors.supervisor import BLOCKED_SECONDS, RestartPolicy
from ironcliw.errors import AgentError, ConflictError, UnavailableError
from tests.unit.actors.agents.shaky_store import ShakyStore
from tests.waiting import until

PATIENT = RestartPolicy(restarts=2, first_pause=0.01, longest_pause=0.02)


class Plain(Agent):
    starts: ClassVar[asyncio.Event | None] = None
    broken: ClassVar[bool] = False

    def __init__(self) -> None:
        self.count = 0
        self.well = True

    async def on_start(self) -> None:
        if self.broken:
            raise ValueError("not today")
        if self.starts is not None:
            await self.starts.wait()

    def healthy(self) -> bool:
        return self.well

    def snapshot(self) -> Any:
        return {"count": self.count}

    def restore(self, state: Any) -> None:
        self.count = state["count"]

    @capability("count", idempotent=True)
    async def add(self, _: Any) -> int:
        self.count += 1
        return self.count

    @capability("sicken")
    async def sicken(self, _: Any) -> None:
        self.well = False


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    Plain.starts, Plain.broken = None, False
    monkeypatch.setattr(watching, "REPORT_SECONDS", 0.1)
    monkeypatch.setattr(watching, "_NO_MACHINE_SECONDS", 0.02)
    monkeypatch.setattr(running, "_STORE_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(running, "_ASK_AGAIN_SECONDS", 0.02)


async def handle_of(bench: AgentBench, name: str) -> LocalHandle:
    where = bench.system.describe(name)["host"]
    [found] = [one for one in await bench.hosts.find() if one.name == where]
    assert isinstance(found, LocalHandle)
    return found


async def never(*_: Any) -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize("method", ["report", "snapshots", "drop_agent"])
async def test_a_host_that_does_not_answer_keeps_nobody_from_the_others(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    async with AgentBench() as bench:
        for name in ("stuck", "other"):
            await bench.start(
                Plain, name=name, options={"isolated": True, "snapshot_seconds": 0.01}
            )
        stuck = await handle_of(bench, "stuck")
        if method == "drop_agent":  # a stranger, to be dropped
            bench.system.registry.mark("stuck", AgentStatus.FAILED, "as a test has it")
        monkeypatch.setattr(watching, "REPORT_SECONDS", 60.0)
        asked = asyncio.Event()

        async def asks(*_: Any) -> None:
            asked.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(stuck, method, asks)
        await asked.wait()
        await (await handle_of(bench, "other")).kill()
        await until(lambda: bench.system.describe("other")["status"] == "running")
        assert await bench.ask("other", capability="count") >= 1


async def cannot(*_: Any) -> Any:
    raise UnavailableError("a host could not be asked: psutil raised NoSuchProcess")


@pytest.mark.parametrize("report", [never, cannot])
async def test_and_is_given_up_after_some_time(
    monkeypatch: pytest.MonkeyPatch, report: Callable[..., Any]
) -> None:
    async with AgentBench() as bench:
        await bench.start(Plain, name="stuck")
        stuck = await handle_of(bench, "stuck")
        monkeypatch.setattr(stuck, "report", report)
        await until(lambda: stuck.dead)
        await until(lambda: bench.system.describe("stuck")["status"] == "running")


async def test_one_that_reports_is_not_given_up_for_being_slow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with AgentBench() as bench:
        await bench.start(Plain, name="keeper")
        await bench.start(Plain, name="stranger")
        slow = await handle_of(bench, "stranger")
        monkeypatch.setattr(slow, "drop_agent", never)
        bench.system.registry.mark("stranger", AgentStatus.FAILED, "as a test has it")
        await until(lambda: caplog.text.count("is slow: no answer") >= 5)
        assert not slow.dead
        assert bench.system.describe("keeper")["restarts"] == 0


@pytest.mark.parametrize("loss", ["its process ended", "one of them blocks"])
async def test_one_that_is_stopped_while_a_host_is_lost_keeps_nobody_from_going_on(
    monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    async with AgentBench() as bench:
        names = [f"a{number}" for number in range(4)]
        for name in names:
            await bench.start(Plain, name=name)
        old = await handle_of(bench, "a0")
        killing, gate, kill = asyncio.Event(), asyncio.Event(), old.kill

        async def slow() -> None:
            killing.set()
            await gate.wait()
            await kill()

        async def report() -> HostReport:
            if loss == "its process ended":
                raise HostLostError("it ended")
            return HostReport(old.name, old.node, 1, 0, 2 * BLOCKED_SECONDS, "a1")

        monkeypatch.setattr(old, "kill", slow)
        monkeypatch.setattr(old, "report", report)
        await killing.wait()
        await bench.system.stop_agent("a1")
        await bench.system.stop_agent("a2")
        await bench.start(Plain, name="a2")
        elsewhere = bench.system.describe("a2")["host"]
        gate.set()
        for name in ("a0", "a2", "a3"):
            assert await bench.ask(name, capability="count") == 1
        assert bench.system.describe("a2")["host"] == elsewhere
        assert [one["name"] for one in bench.system.agents()] == ["a0", "a2", "a3"]


async def test_nor_does_one_that_is_stopped_while_it_is_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with AgentBench() as bench:
        for name in ("a", "b"):
            await bench.start(Plain, name=name)
        handle = await handle_of(bench, "a")
        dropping, gate, drop = asyncio.Event(), asyncio.Event(), handle.drop_agent

        async def slow(name: str, reason: str) -> None:
            dropping.set()
            await gate.wait()
            await drop(name, reason)

        monkeypatch.setattr(watching, "REPORT_SECONDS", 10.0)
        monkeypatch.setattr(handle, "drop_agent", slow)
        await bench.ask("a", capability="sicken")
        await bench.ask("b", capability="sicken")
        await dropping.wait()
        await bench.system.stop_agent("a")
        gate.set()
        await until(lambda: bench.system.describe("b")["restarts"] == 1)
        assert "could not be looked after" not in caplog.text


async def test_an_agent_whose_start_was_broken_off_does_not_stay() -> None:
    async with AgentBench() as bench:
        await bench.start(Plain, name="keeper")
        handle = await handle_of(bench, "keeper")
        start = handle.start_agent

        async def goes_on(*given: Any) -> None:  # a call to another process cannot be taken back
            await asyncio.shield(start(*given))

        handle.start_agent = goes_on  # type: ignore[method-assign]
        Plain.starts = asyncio.Event()
        starting = asyncio.create_task(bench.start(Plain, name="late"))
        await until(lambda: "late" in handle.host._cells)
        # the watch lets it be while it starts
        await until(reports(handle, 3))
        assert "late" in handle.host._cells
        starting.cancel()
        Plain.starts.set()
        await until(lambda: "late" not in handle.host._cells)
        assert [one["name"] for one in bench.system.agents()] == ["keeper"]


def reports(handle: LocalHandle, times: int) -> Callable[[], bool]:
    """Whether the watch has asked a host so often since."""
    count, report = 0, handle.report

    async def counted() -> HostReport:
        nonlocal count
        count += 1
        return await report()

    handle.report = counted  # type: ignore[method-assign]
    return lambda: count >= times


async def test_one_that_is_being_stopped_has_its_time() -> None:
    async with AgentBench() as bench:
        await bench.start(Plain, name="slow", options={"isolated": True})
        handle = await handle_of(bench, "slow")
        stop, gate = handle.stop_agent, asyncio.Event()

        async def slow_stop(name: str, seconds: float) -> bytes | None:
            await gate.wait()
            return await stop(name, seconds)

        handle.stop_agent = slow_stop  # type: ignore[method-assign]
        stopping = asyncio.create_task(bench.system.restart_agent("slow"))
        await until(reports(handle, 3))
        assert "slow" in handle.host._cells
        gate.set()
        await stopping


@pytest.mark.parametrize("away", ["change", "snapshot"])
async def test_a_store_that_is_away_is_no_failure_of_an_agent(away: str) -> None:
    store = ShakyStore()
    async with AgentBench(store=store, policy=PATIENT) as bench:
        await bench.start(Plain, name="a")
        await until(lambda: store.status("a") == "running")
        store.away, before = frozenset({away}), store.asked[away]
        await (await handle_of(bench, "a")).kill()
        # more often than failures are forgiven
        await until(lambda: store.asked[away] >= before + 10)
        status = bench.system.describe("a")["status"]
        assert status == ("running" if away == "change" else "restarting")
        store.away = frozenset()
        await until(lambda: bench.system.describe("a")["status"] == "running")
        assert bench.system.describe("a")["restarts"] == 1
        assert len([one for one in await bench.hosts.find() if "a" in _cells(one)]) == 1
        await until(lambda: store.status("a") == "running")


def _cells(handle: Any) -> Any:
    return handle.host._cells


async def test_a_failure_is_noted_once_the_store_is_back() -> None:
    store = ShakyStore()
    async with AgentBench(store=store, policy=PATIENT) as bench:
        await bench.start(Plain, name="a")
        await until(lambda: store.status("a") == "running")
        store.away = frozenset({"change"})
        Plain.broken = True
        await bench.ask("sicken")
        await until(lambda: bench.system.describe("a")["status"] == "failed")
        assert store.status("a") == "running"
        store.away = frozenset()
        await until(lambda: store.status("a") == "failed")


async def test_states_that_were_not_taken_are_saved_later() -> None:
    store = ShakyStore()
    async with AgentBench(store=store) as bench:
        await bench.start(Plain, name="a", options={"snapshot_seconds": 0.01})
        store.away = frozenset({"save_snapshots"})
        assert await bench.ask("count") == 1
        handle = await handle_of(bench, "a")
        await until(reports(handle, 5))
        assert not handle.dead
        store.away = frozenset()

        async def saved() -> bool:
            return await store.snapshot("a") == b'j{"count": 1}'

        await until(saved)


async def test_an_old_state_does_not_replace_that_of_the_new_place() -> None:
    async with AgentBench() as bench:
        await bench.start(Plain, name="a", options={"snapshot_seconds": 0.01})
        handle = await handle_of(bench, "a")
        asked, gate = asyncio.Event(), asyncio.Event()

        async def old(*_: Any) -> Snapshots:
            asked.set()
            await gate.wait()
            return Snapshots({"a": b'j{"count": -1}'})

        handle.snapshots = old  # type: ignore[method-assign]
        await asked.wait()
        await bench.system.restart_agent("a")
        await until(lambda: bench.system.describe("a")["status"] == "running")
        bench.system.registry.placed("a", "elsewhere", "n")
        gate.set()
        await until(reports(handle, 3))
        assert await bench.store.snapshot("a") == b'j{"count": 0}'
        bench.system.registry.placed("a", handle.name, handle.node)


async def test_a_host_that_is_busy_when_the_head_comes_back_is_taken_up() -> None:
    store, hosts = MemoryStore(), LocalHosts()
    first = AgentBench(store=store, hosts=hosts)
    await first.system.start()
    await first.start(Plain, name="a")
    assert await first.ask("count") == 1
    handle = await handle_of(first, "a")
    await first.close()
    report, times = handle.report, 0

    async def busy() -> HostReport:
        nonlocal times
        times += 1
        found = await report()
        if times <= 3:
            found.blocked_seconds, found.agents = 0.5, []
        return found

    handle.report = busy  # type: ignore[method-assign]
    async with AgentBench(store=store, hosts=hosts) as second:
        assert not handle.dead
        assert await second.ask("count") == 2
        assert second.system.describe("a")["restarts"] == 0


async def test_agents_that_are_still_sought_are_waited_for() -> None:
    store, hosts = MemoryStore(), LocalHosts()
    first = AgentBench(store=store, hosts=hosts)
    await first.system.start()
    await first.start(Plain, name="a")
    await first.close()
    find, gate = hosts.find, asyncio.Event()

    async def slow_find() -> Any:
        await gate.wait()
        return await find()

    hosts.find = slow_find  # type: ignore[method-assign]
    second = AgentBench(store=store, hosts=hosts)
    await second.system.load()
    starting = asyncio.create_task(second.system.start())
    asked = asyncio.create_task(second.ask("a", capability="count"))
    done, _ = await asyncio.wait([asked], timeout=0.1)
    assert not done
    gate.set()
    assert await asked == 1
    await starting
    await second.close()
    for host in await find():
        await host.kill()


async def test_one_that_does_not_come_to_itself_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "BLOCKED_SECONDS", 0.1)
    store, hosts = MemoryStore(), LocalHosts()
    first = AgentBench(store=store, hosts=hosts)
    await first.system.start()
    await first.start(Plain, name="a")
    handle = await handle_of(first, "a")
    await first.close()

    async def blocked() -> HostReport:
        return HostReport(handle.name, handle.node, 1, 1, 0.2, "a")

    handle.report = blocked  # type: ignore[method-assign]
    async with AgentBench(store=store, hosts=hosts) as second:
        assert handle.dead
        await until(lambda: second.system.describe("a")["status"] == "running")


async def test_a_failed_agent_that_cannot_be_started_keeps_its_state() -> None:
    async with AgentBench() as bench:
        await bench.start(Plain, name="a")
        await bench.store.save_snapshots({"a": b'j{"count": 41}'})
        Plain.broken = True
        await fail(bench)
        with pytest.raises(AgentError, match="'a' could not be started: ValueError: not today"):
            await bench.start(Plain, name="a")
        found = bench.system.describe("a")
        assert (found["status"], found["reason"]) == ("failed", "it failed too often")
        [row] = await bench.store.agents()
        assert row.status == "failed"
        Plain.broken = False
        await bench.start(Plain, name="a")
        assert await bench.ask("count") == 42


async def fail(bench: AgentBench) -> None:
    handle = await handle_of(bench, "a")
    bench.system.registry.mark("a", AgentStatus.FAILED, "it failed too often")
    await handle.drop_agent("a", "failed")


async def test_nor_does_a_name_that_is_taken_strike_it_out() -> None:
    class Namesake(Agent):
        @capability("a")
        async def a(self, _: Any) -> None: ...

    async with AgentBench() as bench:
        await bench.start(Plain, name="a")
        await fail(bench)
        with pytest.raises(ConflictError, match="'a' would name both an agent and a capability"):
            await bench.start(Namesake, name="a")
        assert bench.system.describe("a")["status"] == "failed"


async def test_a_bug_that_ends_a_restart_is_seen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_: Any) -> Any:
        raise ValueError("a bug")

    async with AgentBench() as bench:
        await bench.start(Plain, name="a")
        monkeypatch.setattr(bench.hosts, "launch", broken)
        await (await handle_of(bench, "a")).kill()
        await until(lambda: bench.system.describe("a")["status"] == "failed")
        why = bench.system.describe("a")["reason"]
        assert why == "it could not be brought back: ValueError: a bug"
        assert "agent a is not brought back" in caplog.text
        monkeypatch.undo()
        await bench.system.restart_agent("a")
        await until(lambda: bench.system.describe("a")["status"] == "running")
