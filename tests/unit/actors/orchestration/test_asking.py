"""In which order steps that wait are asked about, and that others have their turns meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.journal import Journal
from actors.orchestration import holding
from actors.orchestration.holding import Holding
from actors.orchestration.options import OrchestratorOptions
from actors.orchestrator import Orchestrator
from actors.results import Results
from actors.routing import Option
from actors.situation import Placement, Situation, StepFacts
from actors.steps.executor import StepExecutor
from actors.steps.kinds import Done
from actors.workflow.tasks import StepTask
from ironcliw.store import Store
from tests.waiting import until


class Largest:
    """Asks about the largest first, and starts what fits into the memory that is left."""

    name = "largest"

    def __init__(self) -> None:
        self.left = 0.0
        self.asked: list[str] = []
        self.others: list[list[str]] = []

    def in_order(self, steps: Sequence[StepFacts], at: float) -> Sequence[int]:
        return sorted(range(len(steps)), key=lambda index: -(steps[index].memory_gb or 0.0))

    def place(self, situation: Situation) -> Placement:
        step = situation.step
        self.asked.append(step.step)
        self.others.append([one.step for one in situation.others])
        if (step.memory_gb or 0.0) > self.left:
            return Placement("wait", policy=self.name)
        self.left -= step.memory_gb or 0.0
        return Placement("local", policy=self.name)


class Notes:
    """Remembers which steps ran."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    async def run(self, task: StepTask, place: str, started: Callable[[str], None]) -> Done:
        self.steps.append(task.step)
        return Done.of(None, task)


class Machine:
    def options(self) -> Sequence[Option]:
        return (Option("local"),)

    def memory(self) -> tuple[float, float]:
        return 64.0, 10.0


@asynccontextmanager
async def running(
    store: Store, folder: Path, policy: Any, **options: Any
) -> AsyncIterator[tuple[Orchestrator, Notes]]:
    journal, notes = Journal(store), Notes()
    results = Results(str(folder / "results"), 100, 1000)
    executor = StepExecutor({"function": notes, "http": notes}, results, policy, Machine())
    orchestrator = Orchestrator(
        journal, executor, options=OrchestratorOptions(**options), gate=executor
    )
    await orchestrator.start()
    try:
        yield orchestrator, notes
    finally:
        await orchestrator.close()
        await journal.close()


def flow(**sizes: float) -> dict[str, Any]:
    steps = {name: {"function": "f", "memory_gb": size} for name, size in sizes.items()}
    return {"name": "flow", "steps": steps}


async def test_steps_that_come_together_are_asked_about_in_the_policys_order(
    store: Store, tmp_path: Path
) -> None:
    policy = Largest()
    policy.left = 100.0
    async with running(store, tmp_path, policy) as (orchestrator, notes):
        sent = await orchestrator.submit(flow(small=1.0, large=9.0, middle=4.0))
        assert (await orchestrator.wait(sent.id, 20)).status == "completed"
    assert policy.asked == notes.steps == ["large", "middle", "small"]
    assert [sorted(others) for others in policy.others] == [
        ["large", "middle", "small"],
        ["middle", "small"],
        ["small"],
    ]


async def test_what_comes_free_is_offered_to_those_that_wait_in_that_order(
    store: Store, tmp_path: Path
) -> None:
    policy = Largest()
    async with running(store, tmp_path, policy) as (orchestrator, notes):
        first = await orchestrator.submit(flow(small=1.0, middle=4.0))
        second = await orchestrator.submit(flow(large=9.0))
        await until(lambda: len(policy.asked) >= 3 and orchestrator.queued == 3)
        policy.left, asked = 13.0, len(policy.asked)
        orchestrator.something_happened()
        assert (await orchestrator.wait(second.id, 20)).status == "completed"
        await until(lambda: len(notes.steps) == 2)
        assert policy.asked[asked : asked + 3] == ["large", "middle", "small"]
        assert notes.steps == ["large", "middle"]
        policy.left = 1.0
        orchestrator.something_happened()
        assert (await orchestrator.wait(first.id, 20)).status == "completed"


async def test_a_seat_goes_to_the_first_in_that_order_and_nobody_is_lost(
    store: Store, tmp_path: Path
) -> None:
    policy = Largest()
    policy.left = 100.0
    async with running(store, tmp_path, policy, max_running=1) as (orchestrator, notes):
        sent = await orchestrator.submit(flow(small=1.0, large=9.0, middle=4.0))
        assert (await orchestrator.wait(sent.id, 20)).status == "completed"
        assert orchestrator.queued == 0
    assert notes.steps == ["large", "middle", "small"]


async def test_what_is_not_routed_keeps_its_turn(store: Store, tmp_path: Path) -> None:
    policy = Largest()
    policy.left = 100.0
    steps = flow(small=1.0, large=9.0)
    steps["steps"] = {"call": {"http": {"url": "http://127.0.0.1:9/"}}, **steps["steps"]}
    async with running(store, tmp_path, policy) as (orchestrator, notes):
        sent = await orchestrator.submit(steps)
        assert (await orchestrator.wait(sent.id, 20)).status == "completed"
    assert notes.steps == ["call", "large", "small"]
    assert policy.asked == ["large", "small"]


async def test_many_steps_are_asked_about_in_rounds(store: Store, tmp_path: Path) -> None:
    policy, turns = Largest(), list[int]()
    count = 3 * holding.ROUND

    async def watch() -> None:
        while len(policy.asked) < count:
            turns.append(len(policy.asked))
            await asyncio.sleep(0)

    async with running(store, tmp_path, policy) as (orchestrator, _):
        steps = {"each": {"function": "f", "memory_gb": 1.0, "for_each": list(range(count))}}
        watching = asyncio.create_task(watch())
        await orchestrator.submit({"name": "many", "steps": steps})
        await watching
        assert holding.ROUND in turns, "the loop has other work between rounds"
        assert max(len(others) for others in policy.others) <= holding.ROUND
        assert orchestrator.queued == count


async def test_of_a_crowd_those_go_first_that_the_policy_prefers() -> None:
    seen: list[int] = []

    def backwards(entries: Sequence[int]) -> list[int]:
        seen.append(len(entries))
        return sorted(entries, reverse=True)

    crowd: Holding[int] = Holding(time.time, lambda: None, backwards)
    count = holding.PREFERRED + holding.ROUND
    for entry in range(count):
        crowd.hold(entry, time.time() + 3600, float(entry))
    crowd.something_happened()
    taken, half = crowd.take(), holding.ROUND // 2
    assert seen == [holding.PREFERRED], "to ask about all would take too long"
    preferred = range(holding.PREFERRED - half, holding.PREFERRED)
    assert set(taken) == {*preferred, *range(half)}, "the others have waited longest"
    crowd.close()


@pytest.mark.parametrize("most", [0, 2, 9])
async def test_who_waits_is_told_by_rank(most: int) -> None:
    crowd: Holding[str] = Holding(time.time, lambda: None)
    for entry, rank in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        crowd.hold(entry, time.time() + 3600, rank)
    assert crowd.first(most) == ["b", "c", "a"][:most]
    crowd.close()
