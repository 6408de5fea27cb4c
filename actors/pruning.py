"""Forgets what ended long ago: workflows with their events and results, and messages that are done.

Done bit by bit, since whoever writes meanwhile has to wait: a transaction holds `MOST_EVENTS`
events, or one workflow that has more, and between two of them the others get their turn. A workflow
goes as a whole, and its key with it; its results go before it, so that none is ever left behind.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from actors.message_records import prune_done
from actors.workflow_records import Ended, ended_before, remove_ended
from ironcliw.errors import IroncliwError, StoreError

logger = logging.getLogger(__name__)

T = TypeVar("T")
MOST_EVENTS = 1000
MOST_MESSAGES = 1000
ROUND_SECONDS = 600.0
_PAUSE_SECONDS = 0.2
_DAY = 86_400.0


class Journal(Protocol):
    """What is needed of `actors.journal.Journal`."""

    async def commit(self, work: Callable[[Connection], T]) -> T:
        """Run it in a transaction."""

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run it on one snapshot."""


class Results(Protocol):
    """What is needed of `actors.results.Results`."""

    def forget(self, workflow_id: str) -> None:
        """Remove all results of a workflow; blocking."""


class Pruner:
    """Keeps store and results from growing for ever.

    Args:
        journal: Of the store.
        results: Larger ones.
        keep_days: What ended longer ago is forgotten.
        folders: Of files for steps and agents, touched while they are needed.
        clock: Unix time.
        pause_seconds: Between two transactions.
    """

    def __init__(
        self,
        journal: Journal,
        results: Results,
        keep_days: float,
        folders: Sequence[Path] = (),
        *,
        clock: Callable[[], float] = time.time,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        self._journal = journal
        self._results = results
        self._keep_seconds = keep_days * _DAY
        self._folders = folders
        self._clock = clock
        self._pause = pause_seconds

    async def run(self) -> None:
        """Look every ten minutes, until cancelled."""
        while True:
            try:
                workflows, messages = await self.prune()
                if workflows or messages:
                    logger.info("forgot %d workflows and %d messages", workflows, messages)
            except IroncliwError as error:
                logger.warning("what ended long ago is not forgotten for now: %s", error)
            await asyncio.sleep(ROUND_SECONDS)

    async def prune(self) -> tuple[int, int]:
        """Forget all that is due; how many workflows and messages.

        Raises:
            StoreError: the store cannot be used.
        """
        before = self._clock() - self._keep_seconds
        workflows = await self._prune_workflows(before)
        messages = await self._prune_messages(before)
        for folder in self._folders:
            await asyncio.to_thread(_remove_files, folder, before)
        return workflows, messages

    async def _prune_messages(self, before: float) -> int:
        removed = 0
        while True:
            gone = await self._journal.commit(lambda c: prune_done(c, before, MOST_MESSAGES))
            removed += gone
            if gone < MOST_MESSAGES:
                return removed
            await asyncio.sleep(self._pause)

    async def _prune_workflows(self, before: float) -> int:
        removed, last = 0, None
        while due := await self._journal.read(_due(before, last)):
            last = due[-1]
            ids = [one.id for one in due if await asyncio.to_thread(self._forget, one.id)]
            if ids:
                removed += await self._journal.commit(_removal(ids))
            await asyncio.sleep(self._pause)
        return removed

    def _forget(self, workflow_id: str) -> bool:
        """Whether its results are gone; else it stays, and is tried again at the next look."""
        try:
            self._results.forget(workflow_id)
        except (OSError, StoreError) as error:
            logger.warning("results of workflow %s cannot be removed: %s", workflow_id, error)
            return False
        return True


def _due(before: float, last: Ended | None) -> Callable[[Connection], list[Ended]]:
    return lambda connection: ended_before(connection, before, last, MOST_EVENTS)


def _removal(ids: Sequence[str]) -> Callable[[Connection], int]:
    return lambda connection: remove_ended(connection, ids)


def _remove_files(folder: Path, before: float) -> None:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        try:
            if path.is_file() and path.stat().st_mtime < before:
                path.unlink()
        except OSError as error:
            logger.warning("%s cannot be removed: %s", path, error)
