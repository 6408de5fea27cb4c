"""Steps that are told to wait: they stay ready, and are asked about when something happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from actors.journal import Journal
from actors.orchestration import holding
from actors.orchestration.holding import Holding
from actors.orchestrator import Orchestrator
from actors.situation import Ready
from actors.workflow.tasks import StepTask
from ironcliw.store import Store
from tests.unit.actors.orchestration.conftest import until
from tests.unit.actors.orchestration.executors import Scripted


class Gate:
    """Lets nobody through before `is_open`, and remembers who asked."""

    def __init__(self) -> None:
        self.is_open = False
        self.asked: list[tuple[str, Ready]] = []
        self.again_in = 3600.0

    def admit(self, task: StepTask, ready: Ready) -> float | None:
        self.asked.append((task.step, ready))
        if self.is_open or task.target == "free":
            return None
        return time.time() + self.again_in


@asynccontextmanager
async def running(store: Store, gate: Gate, executor: Scripted) -> AsyncIterator[Orchestrator]:
    journal = Journal(store)
    orchestrator = Orchestrator(journal, executor, gate=gate)
    await orchestrator.start()
    try:
        yield orchestrator
    finally:
        await orchestrator.close()
        await journal.close()


def flow(**steps: Any) -> dict[str, Any]:
    return {"name": "flow", "steps": steps}


async def test_a_step_that_waits_is_ready_and_not_started(store: Store) -> None:
    gate, executor = Gate(), Scripted()
    async with running(store, gate, executor) as orchestrator:
        sent = await orchestrator.submit(flow(a={"function": "f", "memory_gb": 9}))
        await until(lambda: len(gate.asked) == 1)
        view = await orchestrator.get(sent.id)
        assert [(step.status, step.attempts) for step in view.steps] == [("ready", 0)]
        assert (orchestrator.queued, orchestrator.running, executor.tasks) == (1, 0, [])
        gate.is_open = True
        orchestrator.something_happened()
        assert (await orchestrator.wait(sent.id, 20)).status == "completed"
        assert orchestrator.queued == 0


async def test_the_end_of_another_step_is_such_an_event(store: Store) -> None:
    gate, executor = Gate(), Scripted()
    async with running(store, gate, executor) as orchestrator:
        waits = await orchestrator.submit(flow(a={"function": "f"}))
        await until(lambda: len(gate.asked) == 1)
        gate.is_open = True
        await orchestrator.submit(flow(b={"function": "free"}))
        assert (await orchestrator.wait(waits.id, 20)).status == "completed"
    assert executor.names() == ["b", "a"]


async def test_without_any_event_it_is_asked_about_in_time(store: Store) -> None:
    gate, executor = Gate(), Scripted()
    gate.again_in = 0.01
    async with running(store, gate, executor) as orchestrator:
        sent = await orchestrator.submit(flow(a={"function": "f"}))
        await until(lambda: len(gate.asked) == 1)
        gate.is_open = True
        assert (await orchestrator.wait(sent.id, 20)).status == "completed"
    assert gate.asked[1][1].since == gate.asked[0][1].since, "it is ready since then"


async def test_what_it_is_told_of_its_place_in_the_workflow(store: Store) -> None:
    gate = Gate()
    gate.is_open = True
    steps = flow(
        a={"function": "f", "expected_seconds": 5},
        b={"function": "g", "after": ["a"], "expected_seconds": 7},
        c={"function": "h", "after": ["a", "b"]},
    )
    async with running(store, gate, Scripted()) as orchestrator:
        sent = await orchestrator.submit(steps)
        await orchestrator.wait(sent.id, 20)
    plans = [ready.plan for _, ready in gate.asked]
    assert plans[0] is plans[2] is not None
    assert plans[0].targets == ("f", "g", "h")
    assert plans[0].expected == (5, 7, None)
    assert plans[0].dependents == ((1, 2), (2,), ())
    assert [ready.index for _, ready in gate.asked] == [0, 1, 2]


async def test_a_workflow_that_is_cancelled_meanwhile_starts_nothing(store: Store) -> None:
    gate, executor = Gate(), Scripted()
    async with running(store, gate, executor) as orchestrator:
        sent = await orchestrator.submit(flow(a={"function": "f"}))
        await until(lambda: len(gate.asked) == 1)
        await orchestrator.cancel(sent.id)
        gate.is_open = True
        orchestrator.something_happened()
        assert (await orchestrator.wait(sent.id, 20)).status == "cancelled"
        await until(lambda: orchestrator.queued == 0)
    assert executor.tasks == []


async def test_the_next_orchestrator_asks_again(store: Store) -> None:
    gate, executor = Gate(), Scripted()
    async with running(store, gate, executor) as orchestrator:
        sent = await orchestrator.submit(flow(a={"function": "f"}))
        await until(lambda: len(gate.asked) == 1)
    gate.is_open = True
    async with running(store, gate, executor) as orchestrator:
        assert (await orchestrator.wait(sent.id, 20)).status == "completed"


async def test_a_crowd_has_its_turns() -> None:
    asked: list[int] = []
    crowd: Holding[int] = Holding(time.time, lambda: asked.extend(crowd.take()))
    count = 2 * holding.ROUND + 1
    for entry in range(count):
        crowd.hold(entry, time.time() + 3600)
    for seen in (holding.ROUND, 2 * holding.ROUND, count):
        crowd.something_happened()
        crowd.something_happened()
        await until(_has(asked, seen))
    assert asked == list(range(count))
    crowd.close()


async def test_an_answer_in_the_past_does_not_spin() -> None:
    asked: list[float] = []

    def note() -> None:
        one.take()
        asked.append(time.time())

    one: Holding[str] = Holding(time.time, note)
    begun = time.time()
    one.hold("a", begun - 100.0)
    await asyncio.sleep(0.05)
    assert asked == []
    await until(lambda: len(asked) == 1)
    assert asked[0] - begun >= 0.99
    one.close()


def _has(asked: list[int], count: int) -> Callable[[], bool]:
    return lambda: len(asked) == count
