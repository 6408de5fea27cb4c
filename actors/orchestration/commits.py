"""Brings the events of open workflows to the store, in order, and then has their effects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from actors.orchestration.live import Batch, LiveWorkflow, store, was_stored
from actors.workflow.events import Event
from ironcliw.errors import ConflictError, LeaseLostError, StoreError

_log = logging.getLogger(__name__)
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 5.0

T = TypeVar("T")


class Journal(Protocol):
    """The part of `actors.journal.Journal` that is needed here."""

    async def commit(self, work: Callable[[Connection], T]) -> T:
        """Resolves when what the work has written is on the disk."""
        ...

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs a work that only reads."""
        ...


class Commits:
    """The way to the store.

    Args:
        journal: Commits.
        committed: Told of events that are on the disk, with their workflow.
        broken: Told why nothing more can be committed: somebody else leads, or has written.
    """

    def __init__(
        self,
        journal: Journal,
        committed: Callable[[LiveWorkflow, list[Event]], None],
        broken: Callable[[Exception], None],
    ) -> None:
        self._journal = journal
        self._committed = committed
        self._broken = broken
        self._flushes: set[asyncio.Task[None]] = set()

    def flush(self, live: LiveWorkflow) -> None:
        """Commits what is pending; what comes meanwhile goes along or right after."""
        if live.has_pending and not live.is_flushing:
            live.is_flushing = True
            flush = asyncio.get_running_loop().create_task(self._flush(live))
            self._flushes.add(flush)
            flush.add_done_callback(self._flushes.discard)

    async def insert(self, live: LiveWorkflow) -> str:
        """Commits a workflow's first events; gives its id, or the earlier one with its key.

        Raises:
            LeaseLostError: Somebody else leads now.
        """
        assert not live.is_flushing, "nobody else knows of it"
        batch = live.take()
        stored = await self.commit(batch)
        if stored == live.machine.id:
            self._done(live, batch)
        return stored

    async def commit(self, batch: Batch) -> str:
        """Commits a batch, for as long as it takes the store to come back.

        Raises:
            LeaseLostError: Somebody else leads now.
            ConflictError: Somebody else has written.
        """
        wait, is_doubtful = _FIRST_WAIT_SECONDS, False
        while True:
            try:
                return await self._journal.commit(store(batch))
            except LeaseLostError:
                raise
            except (ConflictError, IntegrityError):
                if is_doubtful and await self._journal.read(was_stored(batch)):
                    return batch.live.machine.id
                raise
            except StoreError as error:
                # it may have been committed all the same, if the server went away meanwhile
                is_doubtful = True
                _log.error(
                    "events of workflow %s cannot be stored: %s; again in %.1f s",
                    batch.live.machine.id,
                    error,
                    wait,
                )
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    async def drain(self, seconds: float) -> None:
        """Waits until all that is pending is committed, but no longer than that."""
        if self._flushes:
            await asyncio.wait(set(self._flushes), timeout=seconds)

    async def close(self) -> None:
        """Gives up what is not committed."""
        for flush in self._flushes:
            flush.cancel()
        if self._flushes:
            await asyncio.wait(set(self._flushes))

    async def _flush(self, live: LiveWorkflow) -> None:
        try:
            while live.has_pending:
                batch = live.take()
                if batch.events:
                    await self.commit(batch)
                self._done(live, batch)
        # boundary: whatever it is, the state in memory runs ahead of the store for good
        except Exception as error:  # noqa: BLE001  (told to the orchestrator, which ends)
            self._broken(error)
        finally:
            live.is_flushing = False

    def _done(self, live: LiveWorkflow, batch: Batch) -> None:
        live.committed(batch)
        if batch.events:
            self._committed(live, batch.events)
        for effect in batch.effects:
            effect()
