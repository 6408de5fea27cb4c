"""Circuits of processes that nobody can ask: what a job tells, and for how long it holds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, ClassVar

import pytest

from actors.agent import Agent, capability
from actors.agents import circuits
from actors.agents.bench import AgentBench
from actors.agents.circuits import KEPT_SECONDS, CircuitTeller, ToldCircuits
from actors.agents.client import Agents
from actors.breaker import FAILURES, Breakers, OpenCircuit
from ironcliw.errors import AgentError, UnavailableError
from tests.unit.actors.agents.links import BenchLink
from tests.waiting import until

THINK = OpenCircuit("think", "open", 8, 2.0)
SING = OpenCircuit("sing", "open", 9, 32.0)


class Moody(Agent):
    well: ClassVar[bool]

    @capability("think")
    async def think(self, _: Any) -> str:
        if not self.well:
            raise OSError("no thought")
        return "a thought"


def told_at(told: ToldCircuits, now: float) -> list[tuple[str, str, float]]:
    return [(process, one.capability, one.seconds) for process, one in told.open_now(now)]


def test_what_was_told_holds_until_a_while_after_the_pause() -> None:
    told = ToldCircuits()
    told.tell("job-1", [THINK, SING], 100.0)
    told.tell("job-2", [THINK], 101.0)
    assert told_at(told, 101.5) == [
        ("job-1", "think", 0.5),
        ("job-1", "sing", 30.5),
        ("job-2", "think", 1.5),
    ]
    # a job that was killed tells nothing more
    assert told_at(told, 102.5 + KEPT_SECONDS) == [
        ("job-1", "sing", 0.0),
        ("job-2", "think", 0.0),
    ]
    assert told_at(told, 132.5 + KEPT_SECONDS) == []


def test_what_is_told_anew_takes_the_place_of_the_old() -> None:
    told = ToldCircuits()
    told.tell("job-1", [THINK, SING], 100.0)
    told.tell("job-1", [SING], 101.0)
    assert told_at(told, 101.0) == [("job-1", "sing", 32.0)]
    told.tell("job-1", [], 102.0)
    assert told_at(told, 102.0) == []


def test_nothing_is_kept_of_jobs_that_have_ended() -> None:
    told = ToldCircuits()
    for number in range(50):
        told.tell(f"job-{number}", [THINK], 100.0 * number)
    assert len(told._told) == 1


class Told:
    """Takes what is told, when it is let."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.found: list[list[str]] = []
        self.error: UnavailableError | None = None

    async def __call__(self, open_now: list[OpenCircuit]) -> None:
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.found.append([f"{one.capability} {one.state}" for one in open_now])


async def test_changes_meanwhile_are_told_together_and_last() -> None:
    breakers, told = Breakers(), Told()
    CircuitTeller(breakers, told)
    told.gate.clear()
    for name in ("think", "sing"):
        for _ in range(FAILURES):
            breakers.of(name).failed(asyncio.get_running_loop().time())
        await asyncio.sleep(0)
    breakers.of("think").succeeded()
    told.gate.set()
    await until(lambda: told.found and told.found[-1] == ["sing open"])
    assert len(told.found) == 2
    breakers.of("sing").succeeded()
    await until(lambda: told.found[-1] == [])


async def test_nobody_suffers_where_nothing_can_be_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    breakers, told = Breakers(), Told()
    teller = CircuitTeller(breakers, told)
    told.error = UnavailableError("workflows and agents are not there now")
    for _ in range(FAILURES):
        breakers.of("think").failed(asyncio.get_running_loop().time())
    await until(lambda: "circuits are not told: workflows and agents are not" in caplog.text)
    await teller.last_word()
    assert "circuits are not taken back: workflows and agents are not" in caplog.text
    # the next change is told again
    told.error = None
    CircuitTeller(breakers, told)
    breakers.of("think").succeeded()
    await until(lambda: told.found == [[]])


async def test_the_last_word_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuits, "_LAST_WORD_SECONDS", 0.01)
    breakers, told = Breakers(), Told()
    teller = CircuitTeller(breakers, told)
    await teller.last_word()
    assert told.found == [], "there was nothing to take back"
    teller = CircuitTeller(breakers, told)
    told.gate.clear()
    for _ in range(FAILURES):
        breakers.of("think").failed(asyncio.get_running_loop().time())
    await asyncio.sleep(0)
    await teller.last_word()
    assert told.found == []


async def processes(bench: AgentBench) -> list[tuple[str, str, int]]:
    rows = await bench.system.breakers()
    return [(row["process"], row["state"], row["failures"]) for row in rows]


async def fail(job: Agents, times: int) -> None:
    for _ in range(times):
        with contextlib.suppress(AgentError):
            await job.ask("think")


async def test_a_jobs_circuit_is_listed_while_it_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moody, "well", False, raising=False)
    async with AgentBench() as bench:
        await bench.start(Moody, name="moody")
        async with Agents(BenchLink(bench), bench.hosts.connect, process="job-7") as job:
            await fail(job, FAILURES - 1)
            assert await processes(bench) == []
            await fail(job, 1)
            await until(lambda: processes(bench))
            [(process, state, failures)] = await processes(bench)
            assert (process[:6], state, failures) == ("job-7-", "open", FAILURES)
            assert bench.system.standing().open_circuits == {"think": 1}
            # the pause is over: the next message is the trial
            monkeypatch.setattr(Moody, "well", True)
            job._exchange.breakers.of("think")._until = 0.0
            assert await job.ask("think") == "a thought"
            await until(lambda: _is_empty(bench))
            assert bench.system.standing().open_circuits == {}


async def test_a_job_that_ends_takes_its_circuits_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moody, "well", False, raising=False)
    async with AgentBench() as bench:
        await bench.start(Moody, name="moody")
        async with Agents(BenchLink(bench), bench.hosts.connect) as job:
            await fail(job, FAILURES)
            await until(lambda: processes(bench))
        assert await processes(bench) == []


async def _is_empty(bench: AgentBench) -> bool:
    return not await processes(bench)
