"""Agents that fail, hosts that end, machines that are taken back; durable messages meanwhile.

On the bench, where the end of a process is played; with a real Ray head see tests/integration.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from actors.agent import Agent, capability
from actors.agents import system
from actors.agents.bench import AgentBench
from actors.agents.hosts import HostHandle, HostPlan, LocalHosts
from actors.agents.records import AgentStore, JournalStore, MemoryStore
from actors.journal import Journal
from actors.supervisor import RestartPolicy
from ironcliw.errors import (
    AgentError,
    DeadlineExceededError,
    NotFoundError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from ironcliw.store import Store
from tests.waiting import until

PATIENT = RestartPolicy(restarts=3, first_pause=0.01, longest_pause=0.02)


class Counter(Agent):
    """Counts, remembers, and fails as it is told."""

    handled: ClassVar[list[Any]] = []
    """By all that there were, of whatever process."""
    gate: ClassVar[asyncio.Event]

    def __init__(self) -> None:
        self.count = 0
        self.well = True

    def snapshot(self) -> Any:
        return {"count": self.count}

    def restore(self, state: Any) -> None:
        self.count = state["count"]

    def healthy(self) -> bool:
        return self.well

    @capability("count", idempotent=True)
    async def add(self, body: Any) -> int:
        self.handled.append(body)
        if body == "poison":
            raise ValueError("not this one")
        if body == "once" and self.handled.count("once") == 1:
            raise ValueError("not at first")
        self.count += 1
        return self.count

    @capability("slow", concurrency=4)
    async def slow(self, body: Any) -> Any:
        self.handled.append(body)
        await self.gate.wait()
        return body

    @capability("only")
    async def only(self, body: Any) -> Any:
        return await self.slow(body)

    @capability("redo", idempotent=True, concurrency=4)
    async def redo(self, body: Any) -> Any:
        self.handled.append(body)
        await self.gate.wait()
        return body

    @capability("sicken")
    async def sicken(self, _: Any) -> None:
        self.well = False


class Teller(Agent):
    """Sends within its process, where any object may be sent."""

    @capability("tell")
    async def tell(self, message: list[Any]) -> None:
        target, wanted, body = message
        found = threading.Lock() if body == "a lock" else body
        await self.send(target, found, capability=wanted)


@pytest.fixture(params=["memory", "journal"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AgentStore]:
    Counter.handled = []
    Counter.gate = asyncio.Event()
    if request.param == "memory":
        yield MemoryStore()
        return
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as found:
        found.migrate()
        journal = Journal(found)
        yield JournalStore(journal)
        await journal.close()


@pytest.fixture
async def bench(store: AgentStore) -> AsyncIterator[AgentBench]:
    async with AgentBench(store=store, policy=PATIENT, cloud=True) as bench:
        yield bench


async def test_a_lost_process_costs_no_agent(bench: AgentBench) -> None:
    await bench.start(Counter, name="a", options={"snapshot_seconds": 0.01})
    await bench.start(Counter, name="b")
    assert [await bench.ask("a", 1, capability="count") for _ in range(3)] == [1, 2, 3]

    async def saved() -> bool:
        return await bench.store.snapshot("a") == b'j{"count": 3}'

    await until(saved)
    await bench.hosts.kill(bench.system.describe("a")["host"])
    # whoever asks meanwhile waits; "a" goes on from its last state, "b" has none
    assert await bench.ask("a", 1, capability="count") == 4
    assert await bench.ask("b", 1, capability="count") == 1


async def test_what_was_begun_is_done_again_only_if_that_is_harmless(bench: AgentBench) -> None:
    await bench.start(Counter, name="a")
    redone = asyncio.create_task(bench.ask("redo", "r"))
    lost = asyncio.create_task(bench.ask("slow", "s"))
    await until(lambda: {"r", "s"} <= set(Counter.handled))
    await bench.hosts.kill(bench.system.describe("a")["host"])
    with pytest.raises(UnavailableError, match=r"died|gone"):
        await lost
    Counter.gate.set()
    assert await redone == "r"
    assert (Counter.handled.count("r"), Counter.handled.count("s")) == (2, 1)


async def test_an_agent_that_is_not_well_is_started_again(bench: AgentBench) -> None:
    await bench.start(Counter, name="a")
    await bench.ask("sicken")
    await until(lambda: bench.system.describe("a")["restarts"] == 1)
    assert await bench.ask("count", 1) == 1


class Sickly(Counter):
    async def on_start(self) -> None:
        self.well = False


async def test_one_that_keeps_failing_is_isolated_and_then_given_up(bench: AgentBench) -> None:
    await bench.start(Sickly, name="sickly")
    await bench.start(Counter, name="neighbour")
    await until(lambda: bench.system.describe("sickly")["status"] == "failed")
    found = bench.system.describe("sickly")
    assert found["isolated"]
    assert "given up after too many failures; the last: it says that it is not" in found["reason"]
    with pytest.raises(UnavailableError, match="agent 'sickly' is failed"):
        await bench.ask("sickly", 1, capability="count")
    assert bench.system.describe("neighbour")["restarts"] == 0

    # the store remembers, also for the next head
    async def remembered() -> bool:
        [row] = [row for row in await bench.store.agents() if row.name == "sickly"]
        return (row.status, row.isolated) == ("failed", True)

    await until(remembered)
    # somebody may start it again
    await bench.system.restart_agent("sickly")
    await until(lambda: bench.system.describe("sickly")["status"] == "running")


async def test_the_head_is_started_again(store: AgentStore) -> None:
    hosts = LocalHosts()
    first = AgentBench(store=store, hosts=hosts)
    await first.system.start()
    for name in ("kept", "lost"):
        await first.start(Counter, name=name, options={"isolated": name == "lost"})
    assert await first.ask("kept", 1, capability="count") == 1
    await first.close()
    await hosts.kill(first.system.describe("lost")["host"])
    async with AgentBench(store=store, hosts=hosts) as second:
        # one goes on as it was, the other is started
        assert await second.ask("kept", 1, capability="count") == 2
        assert await second.ask("lost", 1, capability="count") == 1
        assert second.system.describe("kept")["restarts"] == 0


async def test_a_host_that_hangs_keeps_the_next_system_from_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with AgentBench() as old:
        for name in ("stays", "goes"):
            await old.start(Counter, name=name)
        [host] = await old.hosts.find()
        await old.close()
        store = MemoryStore()
        for row in await old.store.agents():
            if row.name == "stays":
                await store.save(row)
        drop, gate = host.drop_agent, asyncio.Event()

        async def hangs(name: str, reason: str) -> None:
            await gate.wait()
            await drop(name, reason)

        monkeypatch.setattr(host, "drop_agent", hangs)
        new = AgentBench(store=store, hosts=old.hosts)
        async with asyncio.timeout(10):
            await new.system.start()
        assert await new.ask("stays", "a", capability="count") == 1
        gate.set()
        # a stranger is dropped by the watch
        await until(lambda: "goes" not in host.host._cells)  # type: ignore[attr-defined]
        await new.close()


async def test_agents_rest_with_their_states_and_go_on(store: AgentStore) -> None:
    hosts = LocalHosts()
    async with AgentBench(store=store, policy=PATIENT, hosts=hosts) as bench:
        await bench.start(Counter, name="a")  # it gives its state at its end alone
        await bench.start(Counter, name="alone", options={"isolated": True})
        for name, times in (("a", 3), ("alone", 2)):
            for _ in range(times):
                await bench.ask(name, 1, capability="count")
        held = asyncio.create_task(bench.ask("a", "late", capability="slow"))
        await until(lambda: "late" in Counter.handled)
        asyncio.get_running_loop().call_later(0.05, Counter.gate.set)
        await bench.system.rest(20)
        assert await held == "late", "it may finish what it is at"
        for host in await hosts.find():
            await host.kill()
    async with AgentBench(store=store, policy=PATIENT, hosts=LocalHosts()) as bench:
        bench.hosts.remember(Counter)
        assert await bench.ask("a", 1, capability="count") == 4
        assert await bench.ask("alone", 1, capability="count") == 3


async def test_a_host_that_blocks_keeps_no_other_agent_from_its_rest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(system, "_HALT_SECONDS", 0.3)
    async with AgentBench() as bench:
        await bench.start(Counter, name="a")
        await bench.start(Counter, name="blocked", options={"isolated": True})
        await bench.ask("a", 1, capability="count")
        hosts = {host.name: host for host in await bench.hosts.find()}
        host = hosts[bench.system.describe("blocked")["host"]]
        monkeypatch.setattr(host, "stop_agent", lambda *_: asyncio.Event().wait())
        async with asyncio.timeout(10):
            await bench.system.rest(0.05)
        assert await bench.store.snapshot("a") == b'j{"count": 1}'
    assert "agent blocked starts again from an older state: its process does not" in caplog.text


async def test_what_happens_is_counted(bench: AgentBench) -> None:
    await bench.start(Counter, name="a", options={"mailbox": 1, "max_attempts": 1})
    figures = bench.system.figures

    def seen(outcome: Any, capability: str = "count") -> int:
        return figures.messages[capability, outcome]

    await bench.ask("a", 1, capability="count")
    with pytest.raises(AgentError, match="not this one"):
        await bench.ask("a", "poison", capability="count")
    await bench.send("a", "poison", capability="count")
    await until(lambda: (seen("ok"), seen("failed"), figures.unheard) == (1, 2, 1))
    assert sum(figures.took["count"]) == 3
    late = bench.ask("a", 1, capability="redo", deadline_seconds=0.05)
    with pytest.raises(DeadlineExceededError):
        await late
    await until(lambda: seen("late", "redo") == 1)
    await bench.send("a", "poison", capability="count", durable=True)
    await until(lambda: figures.dead_letters == 1)
    await bench.ask("a", None, capability="sicken")
    await until(lambda: figures.restarts["failed"] == 1)
    await until(lambda: bench.system.describe("a")["status"] == "running")
    await bench.hosts.kill(bench.system.describe("a")["host"])
    await until(lambda: sum(figures.restarts.values()) == 2)
    await until(lambda: bench.system.standing().agents["running"] == 1)


async def test_what_waits_is_counted_by_priority(bench: AgentBench) -> None:
    await bench.start(Counter, name="a", options={"mailbox": 5})
    for priority in ("high", "low", "low", "normal", "normal"):
        # four are worked on at once, so only what comes after them waits
        for _ in range(4 if priority == "high" else 1):
            await bench.send("a", 1, capability="slow", priority=priority)
    await bench.send("a", 1, capability="slow", priority="critical")
    waiting = {"critical": 1, "high": 0, "normal": 2, "low": 2}
    await until(lambda: bench.system.standing().waiting == waiting)
    with pytest.raises(OverloadedError):
        await bench.send("a", 1, capability="slow")
    await until(lambda: bench.system.figures.messages["", "full"] == 1)
    Counter.gate.set()
    await until(lambda: not sum(bench.system.standing().waiting.values()))


async def test_a_durable_message_is_dealt_with(bench: AgentBench) -> None:
    await bench.start(Counter, name="a")
    await bench.send("count", 1, durable=True)
    await bench.send("a", 2, capability="count", durable=True)
    await until(lambda: Counter.handled == [1, 2])
    await until(lambda: bench.system.durable_on_the_way == 0)
    assert await bench.store.open_messages() == []


async def test_a_durable_message_waits_for_its_agent(bench: AgentBench) -> None:
    await bench.send("count", 1, durable=True)
    await until(lambda: bench.system.durable_on_the_way == 1)
    await bench.start(Counter)
    await until(lambda: Counter.handled == [1])


async def test_a_key_is_sent_once(bench: AgentBench) -> None:
    await bench.start(Counter, name="a")
    for _ in range(3):
        await bench.send("count", 1, durable=True, key="k")
    await bench.send("count", 2, durable=True, key="l")
    await until(lambda: bench.system.durable_on_the_way == 0)
    assert sorted(Counter.handled) == [1, 2]


async def test_a_durable_message_outlives_agent_and_head(store: AgentStore) -> None:
    hosts = LocalHosts()
    first = AgentBench(store=store, hosts=hosts)
    await first.system.start()
    await first.start(Counter, name="a")
    await first.send("slow", "s", durable=True)
    await until(lambda: Counter.handled == ["s"])
    await first.close()
    await hosts.kill(first.system.describe("a")["host"])
    async with AgentBench(store=store, hosts=hosts) as second:
        await until(lambda: Counter.handled == ["s", "s"])
        Counter.gate.set()
        await until(lambda: second.system.durable_on_the_way == 0)
    assert await store.open_messages() == []


async def test_one_that_fails_at_first_is_tried_again(bench: AgentBench) -> None:
    await bench.start(Counter, name="a")
    await bench.send("count", "once", durable=True)
    await until(lambda: bench.system.durable_on_the_way == 0)
    assert Counter.handled == ["once", "once"]
    assert await bench.system.dead_letters(None, 10) == []


async def test_poison_becomes_a_dead_letter_and_may_be_replayed(bench: AgentBench) -> None:
    await bench.start(Counter, name="a", options={"max_attempts": 2})
    await bench.send("count", "poison", durable=True)
    await until(lambda: bench.system.durable_on_the_way == 0)
    assert Counter.handled == ["poison"] * 2
    [letter] = await bench.system.dead_letters(None, 10)
    assert (letter.recipient, letter.attempts) == ("count", 2)
    assert letter.body == {"capability": None, "body": "poison"}
    assert letter.error is not None
    assert "raised ValueError: not this one" in letter.error
    assert await bench.system.dead_letters("somebody else", 10) == []
    await bench.system.replay(letter.id)
    await until(lambda: bench.system.durable_on_the_way == 0)
    assert Counter.handled == ["poison"] * 4
    with pytest.raises(NotFoundError, match="no dead letter 'none'"):
        await bench.system.replay("none")


async def test_poison_that_ends_its_process_is_found_out(bench: AgentBench) -> None:
    await bench.start(Counter, name="a", options={"max_attempts": 2})
    await bench.send("slow", "kills", durable=True)
    for deaths in (1, 2):
        await until(lambda deaths=deaths: Counter.handled == ["kills"] * deaths)
        await bench.hosts.kill(bench.system.describe("a")["host"])
    await until(lambda: bench.system.durable_on_the_way == 0)
    [letter] = await bench.system.dead_letters("slow", 10)
    assert letter.attempts == 2
    assert letter.error is not None
    assert "it was delivered 2 times" in letter.error


async def test_what_the_sender_got_wrong_is_not_tried_again(bench: AgentBench) -> None:
    await bench.start(Counter, name="a")
    await bench.send("a", 1, capability="fly", durable=True)
    await until(lambda: bench.system.durable_on_the_way == 0)
    [letter] = await bench.system.dead_letters("a", 10)
    assert letter.attempts == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({1, 2}, "must be JSON, and set is not"),
        (float("nan"), "must be JSON, and float is not"),
        ("x" * 1_000_001, "is 1,000,003 bytes of JSON, and may be 1,000,000"),
    ],
)
async def test_bodies_that_are_not_kept(body: Any, words: str) -> None:
    async with AgentBench() as bench:
        with pytest.raises(RequestError, match=words):
            await bench.send("count", body, durable=True)


async def test_a_message_past_its_deadline_is_a_dead_letter(bench: AgentBench) -> None:
    ends = time.time() + 0.01
    await bench.send("count", 1, durable=True, deadline_seconds=0.01)
    await until(lambda: time.time() > ends + 0.01)
    await bench.start(Counter)
    await until(lambda: bench.system.durable_on_the_way == 0)
    [letter] = await bench.system.dead_letters("count", 10)
    assert letter.error == "its deadline has passed"
    assert Counter.handled == []


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
    await until(lambda: bench.store.snapshot("a"))
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


async def test_a_full_mailbox_is_no_attempt(bench: AgentBench) -> None:
    await bench.start(Counter, name="a", options={"mailbox": 1, "max_attempts": 1})
    asked = [asyncio.create_task(bench.ask("slow", number)) for number in range(5)]
    await until(lambda: bench.system.describe("a")["load"] == 5)
    await bench.send("slow", "kept", durable=True)

    async def refused() -> bool:
        [row] = await bench.store.open_messages()
        return row.status == "queued" and row.error is not None

    await until(refused)
    [row] = await bench.store.open_messages()
    assert "is full" in str(row.error)
    assert row.attempts == 0
    Counter.gate.set()
    await asyncio.gather(*asked)
    await until(lambda: bench.system.durable_on_the_way == 0)
    assert "kept" in Counter.handled
    assert await bench.system.dead_letters(None, 10) == []
