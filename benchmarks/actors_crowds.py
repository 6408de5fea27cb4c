"""Many durable workflows at once, and ten thousand after a crash; without Ray."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import func, select

from actors.orchestration.options import OrchestratorOptions
from actors.tables import actors_workflow_events as events_table
from benchmarks.actors_messages import THEME
from benchmarks.actors_workflows import Instant, chain, orchestrator
from benchmarks.harness import Figure, Goal, NotRun, Options, Row, Samples, interleave
from cluster.testing.postgresql import empty_database, postgresql_server
from ironcliw import state_sqlite
from ironcliw.errors import UnsupportedError

logger = logging.getLogger(__name__)

_SQLITE, _POSTGRESQL, _RECOVERY_SECONDS = 1500, 1000, 10.0
_OPEN = 10_000
_WORKFLOWS, _STEPS = 1000, 5
Database = Callable[[], AbstractContextManager[str]]
"""Makes a new, empty database; gives its URL."""


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
def _databases() -> Iterator[dict[str, Database]]:
    """By name, what makes the context of a new database's URL."""

    @contextmanager
    def sqlite() -> Iterator[str]:
        with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
            yield f"sqlite:///{folder}/state.db"

    made: dict[str, Database] = {"sqlite": sqlite}
    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgresql_server())
            made["postgresql"] = lambda: empty_database(server)
        except UnsupportedError as error:
            logger.warning("actors: PostgreSQL is not measured: %s", error)
        yield made


def _rate(database: Database, count: int) -> Callable[[], float]:
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
            # of so many; fewer prove nothing about it
            goal=Goal(_RECOVERY_SECONDS, at_most=True) if count == _OPEN else None,
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
        await executor.until_blocked(count)
        await asyncio.to_thread(state_sqlite.backup, folder / "live.db", folder / "image")


async def _recover(path: Path, count: int) -> float:
    async with orchestrator(f"sqlite:///{path}", Instant(blocks="s3")) as (made, _):
        begun = time.perf_counter()
        await made.start()
        seconds = time.perf_counter() - begun
        assert made.open == count, f"{made.open} of {count} workflows are open"
        assert made.running > 0, "none goes on"
    return seconds
