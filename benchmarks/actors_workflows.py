"""Durable workflows of steps that do nothing: one alone, a crowd, and ten thousand after a crash.

The crowd and the crash are measured without Ray: orchestrator, journal and database are the real
ones, a step is a coroutine that returns at once. One alone is measured both ways.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import ray
from sqlalchemy import func, select

from actors.control_link import ControlLink
from actors.journal import Journal
from actors.lease import wait_for_lease
from actors.orchestration.options import OrchestratorOptions
from actors.orchestrator import Orchestrator
from actors.tables import actors_workflow_events as events_table
from actors.workflow.tasks import StepResult, StepTask
from benchmarks.actors_messages import THEME
from benchmarks.actors_work import nothing
from benchmarks.harness import Figure, Goal, NotRun, Options, Row, Samples, interleave
from cluster.testing.postgresql import empty_database, postgresql_server
from ironcliw import state_sqlite
from ironcliw.errors import UnsupportedError
from ironcliw.store import Store

logger = logging.getLogger(__name__)

_LONE_MS, _SQLITE, _POSTGRESQL, _RECOVERY_SECONDS = 50.0, 1500, 1000, 10.0
_OPEN = 10_000
_WORKFLOWS, _STEPS = 1000, 5
_FINISHED = ("completed", "failed", "cancelled")


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
        self.blocked = 0

    async def run(self, task: StepTask) -> StepResult:
        """See `actors.workflow.tasks.Executor`."""
        if task.step == self._blocks:
            self.blocked += 1
            await asyncio.get_running_loop().create_future()
        return StepResult(value=1)

    def is_idempotent(self, kind: str, target: str) -> bool:
        """They are."""
        return True

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


async def _median_ms(once: Callable[[], Any], count: int) -> float:
    for _ in range(3):  # processes are started, connections made
        await once()
    seconds = []
    for _ in range(count):
        begun = time.perf_counter()
        await once()
        seconds.append(time.perf_counter() - begun)
    return 1000 * sorted(seconds)[count // 2]


def rate_rows(options: Options) -> list[Row]:
    """A crowd of workflows, on each database."""
    rounds = options.rounds or (1 if options.quick else 3)
    count = 200 if options.quick else _WORKFLOWS
    with _databases() as urls:
        found = interleave({name: _rate(urls[name], count) for name in urls}, rounds)
    figures: dict[str, Figure] = {name: Samples.of(values) for name, values in found.items()}
    missing = NotRun("no PostgreSQL server is installed (apt-get install postgresql)")
    name = "durable step transitions"
    note = f"{count:,} workflows of {_STEPS} steps at once; each step starts and ends"
    return [
        Row(
            THEME,
            f"{name}, SQLite, synchronous=FULL",
            "events/s",
            figures["sqlite"],
            goal=Goal(_SQLITE),
            note=note,
        ),
        Row(
            THEME,
            f"{name}, PostgreSQL, fsync on",
            "events/s",
            figures.get("postgresql", missing),
            goal=Goal(_POSTGRESQL),
            note=note,
        ),
    ]


@contextmanager
def _databases() -> Iterator[dict[str, Callable[[], Any]]]:
    """By name, what makes the context of a new database's URL."""

    @contextmanager
    def sqlite() -> Iterator[str]:
        with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
            yield f"sqlite:///{folder}/state.db"

    made: dict[str, Callable[[], Any]] = {"sqlite": sqlite}
    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgresql_server())
            made["postgresql"] = lambda: empty_database(server)
        except UnsupportedError as error:
            logger.warning("actors: PostgreSQL is not measured: %s", error)
        yield made


def _rate(database: Callable[[], Any], count: int) -> Callable[[], float]:
    def measure() -> float:
        with database() as url:
            return asyncio.run(_crowd(url, count))

    return measure


async def _crowd(url: str, count: int) -> float:
    definition = chain(_STEPS)
    async with orchestrator(url, Instant()) as (made, store):
        await made.start()

        async def one() -> None:
            view = await made.submit(definition)
            assert (await made.wait(view.id)).status == "completed"

        begun = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(count)))
        seconds = time.perf_counter() - begun
        is_step = events_table.c.kind.like("step_%")
        with store.read() as connection:
            query = select(func.count()).select_from(events_table).where(is_step)
            events = int(connection.execute(query).scalar_one())
    assert events == 2 * _STEPS * count, f"{events} events"
    return events / seconds


def recovery_rows(options: Options) -> list[Row]:
    """The image that a crash leaves of many open workflows is opened by a new orchestrator."""
    count = 1000 if options.quick else _OPEN
    rounds = options.rounds or (1 if options.quick else 3)
    with tempfile.TemporaryDirectory(dir=Path.home()) as name:
        folder = Path(name)
        asyncio.run(_leave_open(folder, count))
        seconds = []
        for number in range(rounds):
            copy = folder / f"{number}.db"
            state_sqlite.restore(copy, folder / "image")
            seconds.append(asyncio.run(_recover(copy, count)))
    return [
        Row(
            THEME,
            f"recovery of {count:,} open workflows, from the orchestrator's start",
            "s",
            Samples.of(seconds),
            goal=Goal(_RECOVERY_SECONDS, at_most=True),
            note=f"{_STEPS} steps, the third was running; until each goes on",
        )
    ]


async def _leave_open(folder: Path, count: int) -> None:
    """Every workflow has its third step running; the image is taken while they do."""
    executor = Instant(blocks="s3")
    options = OrchestratorOptions(max_running=count + 1)
    async with orchestrator(f"sqlite:///{folder}/live.db", executor, options) as (made, _):
        await made.start()
        definition = chain(_STEPS)
        for _ in range(0, count, 500):
            await asyncio.gather(*(made.submit(definition) for _ in range(500)))
        while executor.blocked < count:
            await asyncio.sleep(0.05)
        await asyncio.to_thread(state_sqlite.backup, folder / "live.db", folder / "image")


async def _recover(path: Path, count: int) -> float:
    async with orchestrator(f"sqlite:///{path}", Instant(blocks="s3")) as (made, _):
        begun = time.perf_counter()
        await made.start()
        seconds = time.perf_counter() - begun
        assert made.open == count, f"{made.open} of {count} workflows are open"
        assert made.running > 0, "none goes on"
    return seconds
