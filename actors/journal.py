"""Commits what many ask for in one transaction: durable, at the price of one fsync for all.

One thread writes. What is asked for while it writes is committed together right after, so a lone
work never waits for company, and a crowd shares the disk.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from actors.lease import Lease
from ironcliw.errors import StoreError
from ironcliw.store import Store

T = TypeVar("T")
_log = logging.getLogger(__name__)

BATCH_WORKS = 256
"""At most so many works share a transaction: it bounds how long another writer has to wait."""

_READERS = 2


@dataclass(slots=True)
class JournalCounts:
    """What a journal has done since it was made."""

    committed: int = 0
    failed: int = 0
    transactions: int = 0


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any] = field(init=False)
    result: Any = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.future = self.loop.create_future()

    def settle(self) -> None:
        if self.future.done():  # nobody waits any more
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class _WorkFailedError(Exception):
    """Carries which work of a batch has failed out of the transaction, which rolls it back."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class Journal:
    """The one way in which actors write to the state store.

    Args:
        store: Migrated already; it stays the caller's to close, after the journal.
        lease: Each transaction begins by checking that it is still ours.
    """

    def __init__(self, store: Store, *, lease: Lease | None = None) -> None:
        self._store = store
        self._lease = lease
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()  # nothing may be queued after the end
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="journal-read")
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)
        self._writer.start()
        self.counts = JournalCounts()

    async def commit(self, work: Callable[[Connection], T]) -> T:
        """Runs a work in a transaction; returns what it returned once that is on the disk.

        A work that fails takes no other one with it. Cancelling the wait does not take the work
        back.

        Args:
            work: Reads and writes through the connection, and does nothing else: it may be run
                more than once, and is rolled back in between. It runs in the journal's thread.

        Raises:
            LeaseLostError: Somebody else leads now; nothing was written.
            StoreError: The store cannot be used. If a PostgreSQL server went away during the
                commit, nobody knows whether it was made: read before you repeat.
            Exception: Whatever the work raises; nothing of it was written.
        """
        job = _Job(work, asyncio.get_running_loop())
        with self._closing:
            if self._closed:
                raise StoreError("the journal is closed; it commits nothing any more")
            self._queue.put(job)
        result: T = await job.future
        return result

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs a work that only reads, on one snapshot, beside the writer.

        Raises:
            StoreError: The store cannot be used, the journal is closed, or the work tried to write.
        """
        if self._closed:
            raise StoreError("the journal is closed; it reads nothing any more")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def close(self) -> None:
        """Commits what was asked for and ends the threads; harmless to repeat."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._readers.shutdown)

    def _read(self, work: Callable[[Connection], T]) -> T:
        with self._store.read() as connection:
            return work(connection)

    def _write(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._commit(batch)

    def _next_batch(self) -> list[_Job] | None:
        """Waits for one job and takes along what is there; None at the end."""
        job = self._queue.get()
        if job is None:
            return None
        batch = [job]
        with suppress(queue.Empty):
            while len(batch) < BATCH_WORKS:
                job = self._queue.get_nowait()
                if job is None:
                    self._queue.put(None)  # for the next call
                    break
                batch.append(job)
        return batch

    def _commit(self, jobs: Sequence[_Job]) -> None:
        """Commits all jobs in their order, each one that fails by itself."""
        while jobs:
            try:
                self._transact(jobs)
            except _WorkFailedError as failure:
                bad = failure.index
                self._commit(jobs[:bad])
                self._commit(jobs[bad : bad + 1])
                jobs = jobs[bad + 1 :]
                continue
            # boundary: what a lone work raises is its caller's, and a store that is away must not
            # end the writer
            except Exception as error:  # noqa: BLE001  (told to whoever asked)
                for job in jobs:
                    job.result, job.error = None, error
            self._settle(jobs)
            return

    def _transact(self, jobs: Sequence[_Job]) -> None:
        with self._store.write() as connection:
            if self._lease is not None:
                self._lease.check(connection)
            for index, job in enumerate(jobs):
                try:
                    job.result = job.work(connection)
                except Exception as error:  # boundary: a work is the caller's code
                    # a server that went away fails all of them at once, not one after the other
                    is_away = isinstance(error, DBAPIError) and error.connection_invalidated
                    if len(jobs) == 1 or is_away:
                        raise
                    raise _WorkFailedError(index) from error
        self.counts.transactions += 1

    def _settle(self, jobs: Sequence[_Job]) -> None:
        failed = sum(job.error is not None for job in jobs)
        self.counts.failed += failed
        self.counts.committed += len(jobs) - failed
        for loop in {job.loop for job in jobs}:
            mine = [job for job in jobs if job.loop is loop]
            try:
                loop.call_soon_threadsafe(_settle_all, mine)
            except RuntimeError:  # the loop is closed: its callers are gone
                _log.warning("%d works were settled after their event loop was closed", len(mine))


def _settle_all(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        job.settle()
