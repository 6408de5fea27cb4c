"""The agent step: on real agents of the bench, within a real executor and orchestrator."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from actors.agent import Agent, capability
from actors.agents.bench import AgentBench
from actors.journal import Journal
from actors.orchestrator import Orchestrator
from actors.results import Results
from actors.routing import Option, PlacementPolicy
from actors.steps import agent_call
from actors.steps.agent_call import AgentCalls
from actors.steps.agent_choice import declares_idempotent
from actors.steps.executor import StepExecutor
from ironcliw.schemas.workflows import WorkflowView
from ironcliw.store import Store
from tests.waiting import until


class Writer(Agent):
    """Does what a step asks for."""

    begun: ClassVar[list[str]] = []
    gate: ClassVar[asyncio.Event]

    @capability("write", idempotent=True, concurrency=4)
    async def write(self, body: dict[str, Any]) -> str:
        return f"{body['text']}!"

    @capability("fail")
    async def fail(self, body: Any) -> None:
        raise LookupError("no such book")

    @capability("lock")
    async def lock(self, body: Any) -> Any:
        return {1, 2} if body else threading.Lock()

    @capability("redo", idempotent=True)
    async def redo(self, body: Any) -> str:
        return await self._wait("redo")

    @capability("once")
    async def once(self, body: Any) -> str:
        return await self._wait("once")

    async def _wait(self, what: str) -> str:
        self.begun.append(what)
        await self.gate.wait()
        return what


class Etcher(Agent):
    """Etches in a thread until the gate opens."""

    done: ClassVar[list[str]]
    gate: ClassVar[threading.Event]

    @capability("etch", idempotent=True, timeout_seconds=0.1)
    def etch(self, body: Any) -> None:
        self.gate.wait(60)
        self.done.append("etch")

    @capability("polish", idempotent=True)
    async def polish(self, body: Any) -> None:
        self.done.append("polish")


class Single(Agent):
    @capability("only")
    async def only(self, body: Any) -> str:
        return "the only one"


class Facts:
    def options(self) -> Sequence[Option]:
        return (Option("local"),)

    def memory(self) -> tuple[float, float]:
        return 64.0, 10.0


class Cluster:
    """Agents, and an orchestrator whose steps ask them."""

    def __init__(self, bench: AgentBench, orchestrator: Orchestrator) -> None:
        self.bench = bench
        self.orchestrator = orchestrator

    async def run(self, agent: Any, **step: Any) -> WorkflowView:
        """A workflow of that one step, at its end."""
        submitted = await self.submit(agent, **step)
        return await self.orchestrator.wait(submitted.id, 20)

    async def submit(self, agent: Any, **step: Any) -> WorkflowView:
        steps = {"one": {"agent": agent, "with": {"text": "a"}, **step}}
        return await self.orchestrator.submit({"name": "w", "steps": steps})


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    Writer.begun, Writer.gate = [], asyncio.Event()
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as store:
        store.migrate()
        journal = Journal(store)
        async with AgentBench() as bench:
            executor = StepExecutor(
                {"agent": AgentCalls(bench.system)},
                Results(str(tmp_path / "results"), 1000, 10_000),
                PlacementPolicy(),
                Facts(),
                agent_is_idempotent=partial(declares_idempotent, bench.system.registry),
            )
            orchestrator = Orchestrator(journal, executor)
            await orchestrator.start()
            yield Cluster(bench, orchestrator)
            await orchestrator.close()
        await journal.close()


def why(view: WorkflowView) -> str:
    assert view.error is not None
    return view.error.message


async def test_an_agent_answers_a_step(cluster: Cluster) -> None:
    await cluster.bench.start(Writer, name="writer")
    assert (await cluster.run("write")).output == "a!"
    named = {"name": "writer", "method": "write"}
    assert (await cluster.run(named)).output == "a!"
    assert (await cluster.run({"capability": "write", "strategy": "fastest"})).output == "a!"


async def test_the_method_of_a_named_agent_may_be_left_out_where_there_is_one(
    cluster: Cluster,
) -> None:
    await cluster.bench.start(Single, name="single")
    assert (await cluster.run({"name": "single"})).output == "the only one"
    await cluster.bench.start(Writer, name="writer")
    failed = await cluster.run({"name": "writer"})
    assert why(failed).endswith("say which by `method`: fail, lock, once, redo, write")


async def test_a_capability_that_nobody_has_fails_or_is_waited_for_by_choice(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = await cluster.run("write")
    assert "no agent is named 'write' or offers it" in why(failed)
    patient = {"capability": "write", "wait_seconds": 20}
    asked, look_up = asyncio.Event(), cluster.bench.system.look_up

    async def note(*words: Any, **options: Any) -> Any:
        asked.set()
        return await look_up(*words, **options)

    monkeypatch.setattr(cluster.bench.system, "look_up", note)
    waiting = await cluster.submit(patient)
    await asked.wait()
    await cluster.bench.start(Writer)
    assert (await cluster.orchestrator.wait(waiting.id, 20)).output == "a!"
    failed = await cluster.run({"capability": "fly", "wait_seconds": 0.05})
    assert "no agent is named 'fly'" in why(failed)


async def test_an_agent_that_raises_fails_the_step_with_its_words(cluster: Cluster) -> None:
    await cluster.bench.start(Writer, name="writer")
    failed = await cluster.run("fail", retry={"attempts": 2, "backoff_seconds": 0})
    assert why(failed) == "agent 'writer': 'fail' raised LookupError: no such book"
    assert failed.steps[0].attempts == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [({}, "the answer of an agent cannot be sent"), ({"a": 1}, "cannot be written as JSON")],
)
async def test_an_answer_that_cannot_be_kept_fails_it_for_good(
    cluster: Cluster, body: Any, message: str
) -> None:
    await cluster.bench.start(Writer)
    failed = await cluster.run("lock", **{"with": body, "retry": {"attempts": 5}})
    assert message in why(failed)
    assert failed.steps[0].attempts == 1


async def test_an_agent_that_hangs_is_given_its_time(cluster: Cluster) -> None:
    await cluster.bench.start(Writer)
    late = await cluster.run("redo", timeout_seconds=0.1)
    assert late.status == "failed"
    assert "0.1 s" in why(late)
    # nobody knows how far the other one came
    assert (await cluster.run("once", timeout_seconds=0.1)).status == "uncertain"


async def test_a_step_is_not_undone_while_a_thread_is_at_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_call, "WITHDRAW_SECONDS", 0.05)
    Etcher.done, Etcher.gate = [], threading.Event()
    await cluster.bench.start(Etcher, name="etcher")
    sent = await cluster.submit("etch", compensate={"agent": "polish"})
    try:
        assert (await cluster.orchestrator.wait(sent.id, 20)).status == "uncertain"
        assert Etcher.done == []
    finally:
        Etcher.gate.set()


async def test_an_agent_whose_process_ends_is_asked_again_where_that_is_harmless(
    cluster: Cluster,
) -> None:
    await cluster.bench.start(Writer, name="writer")
    redo, once = [await cluster.submit(one) for one in ("redo", "once")]
    await until(lambda: sorted(Writer.begun) == ["once", "redo"])
    Writer.gate.set()
    await cluster.bench.hosts.kill(cluster.bench.system.describe("writer")["host"])
    assert (await cluster.orchestrator.wait(redo.id, 20)).output == "redo"
    assert (await cluster.orchestrator.wait(once.id, 20)).status == "uncertain"
    await cluster.orchestrator.retry(once.id, "one")
    assert (await cluster.orchestrator.wait(once.id, 20)).output == "once"


async def test_what_is_declared_counts_while_an_agent_is_away(cluster: Cluster) -> None:
    await cluster.bench.start(Writer, name="writer")
    registry = cluster.bench.system.registry
    assert declares_idempotent(registry, "write", {})
    assert not declares_idempotent(registry, "once", {})
    assert not declares_idempotent(registry, "fly", {})
    cluster.bench.system._watching.restart("writer", "a test")
    assert declares_idempotent(registry, "write", {})


async def test_what_a_move_breaks_off_in_its_midst_is_not_done_again_by_itself(
    cluster: Cluster,
) -> None:
    await cluster.bench.start(Writer, name="writer")
    once = await cluster.submit("once")
    await until(lambda: Writer.begun == ["once"])
    # waits in the mailbox, so that it may be done elsewhere
    second = await cluster.submit("once")
    await until(lambda: cluster.bench.system.describe("writer")["load"] == 2)
    await cluster.bench.system.node_leaving("local", time.time() + 0.1)
    assert (await cluster.orchestrator.wait(once.id, 20)).status == "uncertain"
    Writer.gate.set()
    assert (await cluster.orchestrator.wait(second.id, 20)).output == "once"
    assert Writer.begun == ["once"] * 2
