"""A durable workflow of steps that do nothing, and what the other files about workflows share.

An orchestrator without Ray is the real one, on the real journal and database; only its steps are
coroutines that return at once.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ray

from actors.control_link import ControlLink
from actors.journal import Journal
from actors.lease import wait_for_lease
from actors.orchestration.options import OrchestratorOptions
from actors.orchestrator import Orchestrator
from actors.workflow.tasks import StepResult, StepTask
from benchmarks.actors_messages import THEME
from benchmarks.actors_work import nothing
from benchmarks.harness import Figure, Goal, Options, Row, Samples, interleave
from ironcliw.store import Store

_LONE_MS = 50.0


def chain(steps: int) -> dict[str, Any]:
    """A definition of steps one after the other, each with the value of the one before."""
    found: dict[str, Any] = {"s1": {"function": "benchmark.nothing"}}
    for number in range(2, steps + 1):
        given = {"value": f"${{steps.s{number - 1}}}"}
        found[f"s{number}"] = {"function": "benchmark.nothing", "with": given}
    return {"name": f"chain-of-{steps}", "steps": found}


class Instant:
    """An executor whose steps end at once.

    Args:
        blocks: Of these steps the end never comes.
    """

    def __init__(self, blocks: str = "") -> None:
        self._blocks = blocks
        self._blocked = 0
        self._changed = asyncio.Condition()

    async def run(self, task: StepTask) -> StepResult:
        """See `actors.workflow.tasks.Executor`."""
        if task.step == self._blocks:
            async with self._changed:
                self._blocked += 1
                self._changed.notify_all()
            await asyncio.get_running_loop().create_future()
        return StepResult(value=1)

    async def until_blocked(self, count: int) -> None:
        """Wait until so many stand there."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._blocked >= count)

    async def end(self, task: StepTask) -> None:
        """Nothing outlives its orchestrator here."""

    def is_idempotent(self, kind: str, target: str, options: Mapping[str, Any]) -> bool:
        """They are."""
        return True

    def forget(self, task: StepTask) -> None:
        """Nothing is kept for them."""

    def node_of(self, task: StepTask) -> None:
        """On none that could go away."""


@asynccontextmanager
async def orchestrator(
    url: str, executor: Instant, options: OrchestratorOptions | None = None
) -> AsyncIterator[tuple[Orchestrator, Store]]:
    """One that leads, not started yet; closed at the end of the block."""
    with Store(url) as store:
        store.migrate()
        journal = Journal(store, lease=await wait_for_lease(store, "actors", "benchmark"))
        made = Orchestrator(journal, executor, time.time, options)
        try:
            yield made, store
        finally:
            await made.close()
            await journal.close()


def lone_rows(options: Options) -> list[Row]:
    """Workflows one at a time; a cluster runs."""
    rounds = options.rounds or (1 if options.quick else 3)
    count = 15 if options.quick else 60
    found = interleave(
        {
            "ours": lambda: asyncio.run(_lone_on_ray(count)),
            "bare": lambda: _bare_tasks(count),
            "store": lambda: asyncio.run(_lone_in_process(count)),
        },
        rounds,
    )
    goal = Goal(_LONE_MS, at_most=True)
    peers: dict[str, Figure] = {"3 bare Ray tasks, nothing stored": Samples.of(found["bare"])}
    name = "workflow of 3 no-op steps, from submission to its end, p50"
    return [
        Row(THEME, f"{name}, each a Ray task", "ms", Samples.of(found["ours"]), peers, goal),
        Row(THEME, f"{name}, orchestrator and SQLite alone", "ms", Samples.of(found["store"])),
    ]


async def _lone_on_ray(count: int) -> float:
    link = ControlLink()

    async def once() -> None:
        made = await link.workflows(
            "submit", repeatable=False, definition=chain(3), inputs={}, owner="local"
        )
        after, finished = 0, False
        while not finished:
            page = await link.workflows(
                "events",
                repeatable=True,
                workflow_id=made["id"],
                owner=None,
                after=after,
                wait_seconds=30.0,
                limit=100,
            )
            finished = page["finished"]
            after = page["events"][-1]["seq"] if page["events"] else after
        assert page["events"][-1]["kind"] == "completed", page

    return await _median_ms(once, count)


async def _lone_in_process(count: int) -> float:
    with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        async with orchestrator(f"sqlite:///{folder}/state.db", Instant()) as (made, _):
            await made.start()

            async def once() -> None:
                view = await made.submit(chain(3))
                assert (await made.wait(view.id)).status == "completed"

            return await _median_ms(once, count)


def _bare_tasks(count: int) -> float:
    task = ray.remote(max_retries=0, num_cpus=0.25)(nothing)

    async def once() -> None:
        value = None
        for _ in range(3):
            value = await task.remote(value)

    return asyncio.run(_median_ms(once, count))


async def _median_ms(once: Callable[[], Awaitable[None]], count: int) -> float:
    for _ in range(3):  # processes are started, connections made
        await once()
    seconds = []
    for _ in range(count):
        begun = time.perf_counter()
        await once()
        seconds.append(time.perf_counter() - begun)
    return 1000 * sorted(seconds)[count // 2]
