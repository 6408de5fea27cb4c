"""What the journal promises, on every database that the store supports."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import IntegrityError

from actors.journal import BATCH_WORKS, Journal
from actors.lease import Lease, acquire
from actors.tables import actors_snapshots
from ironcliw.errors import LeaseLostError, StoreError
from ironcliw.store import Store


@pytest.fixture
async def journal(store: Store) -> AsyncIterator[Journal]:
    journal = Journal(store)
    yield journal
    await journal.close()


def note(name: str) -> Callable[[Connection], str]:
    """A work that leaves a row."""

    def work(connection: Connection) -> str:
        row = {"agent": name, "at": 0.0, "state": b""}
        connection.execute(actors_snapshots.insert(), row)
        return f"{name} was noted"

    return work


def noted(store: Store) -> set[str]:
    """What is committed: another connection reads it."""
    with store.read() as connection:
        return set(connection.execute(select(actors_snapshots.c.agent)).scalars())


class Gate:
    """Keeps the writer busy, so that what is asked for meanwhile becomes one batch."""

    def __init__(self, journal: Journal) -> None:
        self._open, self._reached = threading.Event(), threading.Event()
        self._task = asyncio.ensure_future(journal.commit(self._wait))

    def _wait(self, _: Connection) -> None:
        self._reached.set()
        assert self._open.wait(60)

    async def closed(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 30)

    async def open(self) -> None:
        self._open.set()
        await self._task


async def test_a_work_is_on_the_disk_when_its_caller_goes_on(
    journal: Journal, store: Store
) -> None:
    assert await journal.commit(note("a")) == "a was noted"
    assert noted(store) == {"a"}


async def test_works_that_wait_share_a_transaction(journal: Journal, store: Store) -> None:
    gate = Gate(journal)
    await gate.closed()
    names = [f"agent-{i}" for i in range(BATCH_WORKS + 1)]
    tasks = [asyncio.ensure_future(journal.commit(note(name))) for name in names]
    await asyncio.sleep(0)  # each has put its work into the queue
    await gate.open()
    assert await asyncio.gather(*tasks) == [f"{name} was noted" for name in names]
    assert noted(store) == set(names)
    # the gate's, a full one, and the one that did not fit
    assert journal.counts.transactions == 3
    assert journal.counts.committed == BATCH_WORKS + 2


async def test_a_work_that_fails_takes_no_other_with_it(journal: Journal, store: Store) -> None:
    def fail(connection: Connection) -> None:
        note("half")(connection)
        raise RuntimeError("on purpose")

    def break_a_statement(connection: Connection) -> None:
        connection.execute(text("SELECT * FROM nowhere"))

    gate = Gate(journal)
    await gate.closed()
    works = [note("a"), fail, note("b"), note("a"), break_a_statement, note("c")]
    tasks = [asyncio.ensure_future(journal.commit(work)) for work in works]
    await asyncio.sleep(0)
    await gate.open()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [results[i] for i in (0, 2, 5)] == ["a was noted", "b was noted", "c was noted"]
    assert str(results[1]) == "on purpose"
    assert isinstance(results[3], IntegrityError)
    assert isinstance(results[4], StoreError) and "nowhere" in str(results[4])
    assert noted(store) == {"a", "b", "c"}
    assert (journal.counts.committed, journal.counts.failed) == (4, 3)


async def test_works_run_in_the_order_in_which_they_came(journal: Journal) -> None:
    seen: list[int] = []

    def work(index: int) -> Callable[[Connection], None]:
        return lambda _: seen.append(index)

    await asyncio.gather(*(journal.commit(work(i)) for i in range(20)))
    assert seen == list(range(20))


async def test_a_caller_that_leaves_does_not_take_its_work_along(
    journal: Journal, store: Store
) -> None:
    gate = Gate(journal)
    await gate.closed()
    task = asyncio.ensure_future(journal.commit(note("a")))
    other = asyncio.ensure_future(journal.commit(note("b")))  # in the same transaction
    await asyncio.sleep(0)
    task.cancel()
    await gate.open()
    assert await asyncio.wait_for(other, 60) == "b was noted"
    assert task.cancelled()
    assert noted(store) == {"a", "b"}


async def test_reading_goes_beside_the_writer(journal: Journal, store: Store) -> None:
    await journal.commit(note("a"))
    gate = Gate(journal)
    await gate.closed()
    names = await journal.read(
        lambda connection: connection.execute(select(actors_snapshots.c.agent)).scalars().all()
    )
    assert names == ["a"]
    with pytest.raises(StoreError, match=r"store\.write"):
        await journal.read(note("b"))
    await gate.open()


async def test_closing_commits_what_was_asked_for_and_nothing_after(store: Store) -> None:
    journal = Journal(store)
    tasks = [asyncio.ensure_future(journal.commit(note(f"{i}"))) for i in range(50)]
    await asyncio.sleep(0)
    await journal.close()
    await journal.close()
    await asyncio.gather(*tasks)
    assert len(noted(store)) == 50
    with pytest.raises(StoreError, match="closed; it commits nothing"):
        await journal.commit(note("late"))
    with pytest.raises(StoreError, match="closed; it reads nothing"):
        await journal.read(lambda _: None)


async def test_who_has_lost_the_lease_writes_nothing(store: Store) -> None:
    lease = acquire(store, "orchestrator", "first", now=1000.0)
    assert lease is not None
    journal = Journal(store, lease=lease)
    await journal.commit(note("while it leads"))
    assert acquire(store, "orchestrator", "second", now=2000.0) == Lease(
        "orchestrator", "second", 2
    )
    lost = r"first led 'orchestrator' in epoch 1 and does so no more \(epoch 2, second\)"
    with pytest.raises(LeaseLostError, match=lost):
        await journal.commit(note("after it has lost"))
    await journal.close()
    assert noted(store) == {"while it leads"}
