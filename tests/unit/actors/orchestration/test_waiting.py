"""Steps that are told to wait: they stay ready, and are asked about when something happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from actors.journal import Journal
from actors.orchestration import holding
from actors.orchestration.holding import Holding
from actors.orchestrator import Orchestrator
from actors.results import Results
from actors.routing import Option
from actors.situation import Placement, Ready, Situation, Waiting
from actors.steps.executor import StepExecutor
from actors.steps.kinds import Done
from actors.workflow.tasks import StepTask
from ironcliw.store import Store
from tests.unit.actors.orchestration.executors import Scripted
from tests.waiting import until


class Gate:
    """Lets nobody through before `is_open`, and remembers who asked."""

    def __init__(self) -> None:
        self.is_open = False
        self.asked: list[tuple[str, Ready]] = []
        self.again_in = 3600.0

    def in_order(self, steps: Sequence[Waiting]) -> Sequence[int]:
        return range(len(steps))

    def round(
        self, asked: Sequence[Waiting], held: Sequence[Waiting]
    ) -> AbstractContextManager[None]:
        return nullcontext()

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


class Broken(Gate):
    def admit(self, task: StepTask, ready: Ready) -> float | None:
        raise ValueError("a bug")


async def test_a_step_whose_gate_fails_is_not_forgotten(store: Store) -> None:
    async with running(store, Broken(), Scripted()) as orchestrator:
        sent = await orchestrator.submit(flow(a={"function": "f"}))
        ended = await orchestrator.wait(sent.id, 20)
        assert ended.error is not None
        assert ended.error.message == "it cannot be started: ValueError: a bug"


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
        crowd.hold(entry, time.time() + 3600, 0.0)
    crowd.something_happened()
    crowd.something_happened()
    for seen in (holding.ROUND, 2 * holding.ROUND, count):
        await until(_has(asked, seen))
    assert asked == list(range(count))
    crowd.close()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_one_that_is_due_is_asked_about_and_none_of_the_others() -> None:
    clock = Clock()
    crowd: Holding[int] = Holding(clock, lambda: None)
    last = 2 * holding.ROUND
    for entry in range(last):
        crowd.hold(entry, 5000.0, entry)
    crowd.hold(last, 1010.0, last)
    assert crowd.take() == []
    clock.now = 1010.0
    assert crowd.take() == [last]
    clock.now = 5000.0
    assert crowd.take() == list(range(holding.LEAST_ROUND))
    crowd.close()


async def test_at_each_event_the_first_go_first_and_the_last_have_their_turn() -> None:
    crowd: Holding[int] = Holding(Clock(), lambda: None)
    count = 4 * holding.ROUND
    for entry in reversed(range(count)):  # the last by rank has waited longest
        crowd.hold(entry, 5000.0, entry)
    size, asked = holding.ROUND, set[int]()
    for _ in range(2 * count // holding.LEAST_ROUND):
        crowd.something_happened()
        taken = crowd.take()
        assert len(taken) == size
        assert taken[: size // 2] == list(range(size // 2)), "what has come free is theirs"
        asked.update(taken)
        for entry in taken:
            crowd.hold(entry, 5000.0, entry)
        size = holding.LEAST_ROUND  # none was let go
    assert asked == set(range(count))
    crowd.close()


async def test_where_many_are_let_go_many_are_asked_about() -> None:
    crowd: Holding[int] = Holding(Clock(), lambda: None)
    for entry in range(4 * holding.ROUND):
        crowd.hold(entry, 5000.0, entry)
    crowd.something_happened()
    for let_go, size in ((0, holding.ROUND), (15, 16), (25, 30), (50, 50), (0, holding.ROUND)):
        taken = crowd.take()
        assert len(taken) == size
        for entry in taken[let_go:]:
            crowd.hold(entry, 5000.0, entry)
    crowd.close()


async def test_after_one_event_each_is_asked_about_once() -> None:
    crowd: Holding[int] = Holding(Clock(), lambda: None)
    count = 3 * holding.ROUND
    for entry in range(count):
        crowd.hold(entry, 5000.0, entry)
    crowd.something_happened()
    asked: list[int] = []
    while taken := crowd.take():
        asked += taken
        for entry in taken:
            crowd.hold(entry, 5000.0, entry)
    assert sorted(asked) == list(range(count))
    crowd.close()


async def test_rounds_that_take_long_are_further_apart() -> None:
    fired: list[float] = []
    crowd: Holding[int] = Holding(time.time, lambda: fired.append(time.monotonic()))
    crowd.hold(0, time.time() + 3600, 0.0)
    crowd.took(1000.0)
    crowd.took(0.05)  # the last one counts
    begun = time.monotonic()
    crowd.something_happened()
    await until(lambda: bool(fired))
    assert fired[0] - begun >= 0.45
    crowd.close()


async def test_an_answer_in_the_past_does_not_spin() -> None:
    asked: list[float] = []

    def note() -> None:
        one.take()
        asked.append(time.time())

    one: Holding[str] = Holding(time.time, note)
    begun = time.time()
    one.hold("a", begun - 100.0, 0.0)
    await asyncio.sleep(0.05)
    assert asked == []
    await until(lambda: len(asked) == 1)
    assert asked[0] - begun >= 0.99
    one.close()


class Opens:
    """A policy that has step `late` wait until it is told."""

    name = "opens"

    def __init__(self) -> None:
        self.is_open = False
        self.placed: list[str] = []

    def place(self, situation: Situation) -> Placement:
        if situation.step.step == "late" and not self.is_open:
            return Placement("wait", policy=self.name)
        self.placed.append(situation.step.step)
        return Placement("local", policy=self.name)


class Hangs:
    """Its steps end when they are told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.end = asyncio.Event()

    async def run(self, task: StepTask, place: str, started: Callable[[str], None]) -> Done:
        self.steps.append(task.step)
        await self.end.wait()
        return Done.of(None, task)


class Machine:
    def options(self) -> Sequence[Option]:
        return (Option("local"),)

    def memory(self) -> tuple[float, float]:
        return 64.0, 10.0


class Held:
    """A journal that commits nothing while it is held up."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.waiting = 0
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def commit(self, work: Callable[[Connection], Any]) -> Any:
        self.waiting += not self.goes_on.is_set()
        await self.goes_on.wait()
        return await self._journal.commit(work)

    async def read(self, work: Callable[[Connection], Any]) -> Any:
        return await self._journal.read(work)


async def test_a_start_and_a_turn_that_share_a_commit_leave_no_ghost(
    store: Store, tmp_path: Path
) -> None:
    journal, policy, hangs = Journal(store), Opens(), Hangs()
    held, results = Held(journal), Results(str(tmp_path / "results"), 100, 1000)
    executor = StepExecutor({"function": hangs}, results, policy, Machine())
    orchestrator = Orchestrator(held, executor, gate=executor)
    await orchestrator.start()
    steps = flow(first={"function": "f"}, late={"function": "f"})
    sent = await orchestrator.submit(steps)
    await until(lambda: hangs.steps == ["first"] and orchestrator.queued == 1)
    held.goes_on.clear()
    hangs.end.set()
    await until(lambda: held.waiting == 1)  # the end of `first`, and what comes now goes together
    policy.is_open = True
    orchestrator.something_happened()
    await until(lambda: policy.placed == ["first", "late"])
    cancelling = asyncio.create_task(orchestrator.cancel(sent.id))
    await until(lambda: orchestrator._engine.lives[sent.id].is_turned)
    held.goes_on.set()
    await cancelling
    assert (await orchestrator.wait(sent.id, 20)).status == "cancelled"
    assert hangs.steps == ["first"], "the other one was stopped before its first turn"
    assert executor.router.running("local") == 0
    await orchestrator.close()
    await journal.close()


def _has(asked: list[int], count: int) -> Callable[[], bool]:
    return lambda: len(asked) == count
