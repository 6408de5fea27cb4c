"""Agents that fail, hosts that end; durable messages meanwhile.

On the bench, where the end of a process is played; with a real Ray head see tests/integration.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from actors.agents import system
from actors.agents.bench import AgentBench
from actors.agents.hosts import LocalHosts
from actors.agents.records import AgentStore, MemoryStore
from ironcliw.errors import (
    AgentError,
    DeadlineExceededError,
    NotFoundError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from tests.unit.actors.agents.counter import PATIENT, Counter
from tests.waiting import until


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
