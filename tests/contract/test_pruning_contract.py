"""What ended long ago is forgotten bit by bit, on every database that the store supports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, func, select

from actors import message_records, pruning, workflow_records
from actors.journal import Journal
from actors.message_records import MessageRow
from actors.pruning import Pruner
from actors.results import Results
from actors.tables import actors_workflow_events
from actors.workflow_records import EventRow, WorkflowRow
from ironcliw.errors import NotFoundError
from ironcliw.store import Store

T = TypeVar("T")
DAY = 86_400.0
NOW = 1_764_000_000.0


class Counting:
    """A journal that counts its transactions."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.commits = 0

    async def commit(self, work: Callable[[Connection], T]) -> T:
        self.commits += 1
        return await self._journal.commit(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._journal.read(work)


@pytest.fixture
async def journal(store: Store) -> AsyncIterator[Counting]:
    journal = Journal(store)
    yield Counting(journal)
    await journal.close()


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(str(tmp_path / "results"), inline_bytes=10, most_bytes=1000)


def add(store: Store, id_: str, ended_days_ago: float | None, events: int = 3, **more: Any) -> None:
    at = NOW - DAY * (40 if ended_days_ago is None else ended_days_ago)
    finished_at = None if ended_days_ago is None else at
    row = WorkflowRow(id_, "w", "me", {}, {}, "completed", 2, at, at, finished_at=finished_at)
    rows = [EventRow(seq, at, "submitted") for seq in range(1, events + 1)]
    with store.write() as connection:
        workflow_records.insert_workflow(connection, replace(row, **more), rows)


def left(store: Store) -> tuple[set[str], int]:
    """Workflows that are there, and how many events."""
    with store.read() as connection:
        rows = workflow_records.list_(connection)
        events = connection.execute(select(func.count()).select_from(actors_workflow_events))
        return {row.id for row in rows}, events.scalar_one()


def pruner(journal: Counting, results: Results, **more: Any) -> Pruner:
    return Pruner(journal, results, 30, clock=lambda: NOW, pause_seconds=0.0, **more)


async def test_old_workflows_go_with_events_results_and_keys(
    store: Store, journal: Counting, results: Results
) -> None:
    add(store, "old", 31, key="k")
    add(store, "new", 29)
    add(store, "open", None)
    kept = {id_: results.keep(id_, b'"a long text"', "it") for id_ in ("old", "new", "open")}
    assert await pruner(journal, results).prune() == (1, 0)
    assert left(store) == ({"new", "open"}, 6)
    for id_ in ("new", "open"):
        assert results.read(id_, kept[id_] or "") == b'"a long text"'
    with pytest.raises(NotFoundError, match="is gone from"):
        results.read("old", kept["old"] or "")
    with store.read() as connection:
        assert workflow_records.find_submission(connection, "me", "k") is None
    add(store, "again", 0, key="k")
    assert await pruner(journal, results).prune() == (0, 0)


async def test_a_key_is_known_as_long_as_its_workflow(
    store: Store, journal: Counting, results: Results
) -> None:
    add(store, "young", 29.9, key="k")
    await pruner(journal, results).prune()
    with store.read() as connection:
        assert workflow_records.find_submission(connection, "me", "k") == "young"


async def test_a_transaction_holds_so_much_and_no_more(
    store: Store,
    journal: Counting,
    results: Results,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pruning, "MOST_EVENTS", 10)
    for number in range(7):
        add(store, f"w{number}", 31)  # of three events each: three together
    add(store, "large", 50, events=25)  # alone
    assert await pruner(journal, results).prune() == (8, 0)
    assert left(store) == (set(), 0)
    assert journal.commits == 4 + 1, "the last looked for messages"


async def test_what_cannot_be_removed_stays_and_keeps_no_other(
    store: Store, journal: Counting, results: Results, caplog: pytest.LogCaptureFixture
) -> None:
    for id_ in ("a", "b", "c"):
        add(store, id_, 31)

    class Stubborn:
        def forget(self, workflow_id: str) -> None:
            if workflow_id == "b":
                raise PermissionError("not yours")

    assert await Pruner(journal, Stubborn(), 30, clock=lambda: NOW, pause_seconds=0.0).prune() == (
        2,
        0,
    )
    assert left(store) == ({"b"}, 3)
    assert "results of workflow b cannot be removed: not yours" in caplog.text
    assert await pruner(journal, results).prune() == (1, 0)


async def test_messages_that_are_done_go_and_dead_letters_stay(
    store: Store,
    journal: Counting,
    results: Results,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pruning, "MOST_MESSAGES", 2)
    ids = [f"m{number}" for number in range(5)]
    rows = [MessageRow(id_, "reader", None, 2, NOW - 40 * DAY) for id_ in (*ids, "dead", "young")]
    with store.write() as connection:
        message_records.insert_messages(connection, [*rows, replace(rows[0], id="open")])
        message_records.mark_done(connection, ids, NOW - 31 * DAY)
        message_records.mark_done(connection, ["young"], NOW - 29 * DAY)
        message_records.mark_dead(connection, "dead", "x", NOW - 31 * DAY)
    assert await pruner(journal, results).prune() == (0, 5)
    assert journal.commits == 3, "two, two and one"
    with store.read() as connection:
        counts = message_records.count_by_status(connection)
    assert counts == {"done": 1, "dead": 1, "queued": 1}


async def test_old_files_of_steps_go(journal: Counting, results: Results, tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    await pruner(journal, results, folders=[folder]).prune()  # there is none yet
    folder.mkdir()
    (folder / "one.yaml").write_text("{}")
    age = (folder / "one.yaml").stat().st_mtime
    for days, stays in ((29, True), (31, False)):
        clock = partial(float, age + days * DAY)
        later = Pruner(journal, results, 30, [folder], clock=clock, pause_seconds=0.0)
        await later.prune()
        assert (folder / "one.yaml").exists() is stays
