"""What the learned router does beside deciding: follows its standing, heeds alarms, learns.

It runs in the control actor, so that all of it happens without anybody typing anything.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sqlalchemy import Connection, select

from actors.attempt_history import OUT_OF_MEMORY
from actors.tables import actors_decisions as decisions
from cluster.money.ledger import Ledger
from cluster.money.prices import PriceTable
from ironcliw.errors import IroncliwError
from ironcliw.settings import Settings, process_environment
from ironcliw.store import Store
from rl.live.nightly import read_night
from rl.live.state import change, read_standing
from rl.policy import FIT_FILE, FOLDER
from rl.promotion import Signs, Standing, was_told, watch

if TYPE_CHECKING:
    from rl.policy import NumpyPolicy

logger = logging.getLogger(__name__)

T = TypeVar("T")
FOLLOW_SECONDS = 10.0
WATCH_SECONDS = 60.0
NIGHT_HOUR = 3
"""Of local time, from which on the night's work is done, once a day."""
NIGHT_SECONDS = 1800.0
"""That it may take."""
AGAIN_SECONDS = 3600.0
"""After a start, or a night whose work failed, until it is tried."""
_DAY = 86_400.0
_CENT = 0.01
_WHO = {"tuned": "tuned policy", "rules": "rules of placement"}


class Journal(Protocol):
    """What is needed of `actors.journal.Journal`."""

    async def commit(self, work: Callable[[Connection], T]) -> T:
        """Run a work in a transaction."""

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a work that only reads."""


class Upkeep:
    """Of one policy.

    Args:
        policy: It.
        journal: Of the state store.
        changed: Told when another decides than a moment ago.
        clock: Unix seconds.
    """

    def __init__(
        self,
        policy: NumpyPolicy,
        journal: Journal,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policy = policy
        self._journal = journal
        self._changed = changed
        self._clock = clock
        self._watched = float("-inf")
        self._night_tried = clock()  # a head that has just started has better things to do
        self._night: asyncio.Task[bool] | None = None
        self._night_failed = False
        self._fit = self._fit_file()

    async def run(self) -> None:
        """Until cancelled, and the night's work with it."""
        try:
            while True:
                try:
                    await self.round()
                except IroncliwError as error:
                    logger.warning("the standing of routing cannot be followed for now: %s", error)
                # the boundary of a task that nobody waits for: it would end without a word
                except Exception:
                    logger.exception("the standing of routing cannot be followed for now")
                await asyncio.sleep(FOLLOW_SECONDS)
        finally:
            if self._night is not None:
                self._night.cancel()
                await asyncio.gather(self._night, return_exceptions=True)

    async def round(self) -> None:
        """Follow and watch, as far as each is due, and begin the night's work or hear of its end.

        Raises:
            StoreError: the store cannot be used.
            DataError: the standing in it is of another release.
        """
        standing, _ = await self._journal.read(read_standing)
        if standing != self._policy.standing:
            self._stand(standing)
        self._follow_fit()
        now = self._clock()
        if now - self._watched >= WATCH_SECONDS:
            self._watched = now
            await self._watch(standing, now)
        if self._night is not None and self._night.done():
            ended, self._night, self._night_failed = self._night, None, True
            self._night_failed = not ended.result()  # or it raises what went wrong
        if self._night is None and await self._is_night(now):
            self._night_tried = now
            self._night = asyncio.create_task(self._learn(), name="routing's night")

    def _follow_fit(self) -> None:
        """Believe a fit that somebody has written: the night, or `ironcliw route calibrate`."""
        if (found := self._fit_file()) != self._fit:
            self._fit = found
            self._policy.believe()

    def _fit_file(self) -> tuple[int, int] | None:
        """By what a new fit is known: each is another file; None where there is none."""
        if self._policy.state_dir is None:
            return None
        try:
            told = (self._policy.state_dir / FOLDER / FIT_FILE).stat()
        except OSError:
            return None
        return told.st_ino, told.st_mtime_ns

    async def _watch(self, standing: Standing, now: float) -> None:
        signs = await self.signs(standing, now)
        if watch(standing, signs) == standing:
            return
        new = await self._journal.commit(
            lambda connection: change(connection, lambda old: watch(old, signs))
        )
        if new.changes and new.changes != standing.changes:
            logger.error("routing falls back to the %s: %s", _WHO[new.base], new.changes[-1].reason)
        self._stand(new)

    def _stand(self, standing: Standing) -> None:
        self._policy.stand(standing)
        self._changed()

    async def signs(self, standing: Standing, now: float) -> Signs:
        """What is seen of the system since the standing changed."""
        counts = self._policy.counts
        changed = standing.changes[-1].at if standing.changes else 0.0
        since = max(changed, now - _DAY)
        logged = await self._journal.read(lambda connection: _out_of_memory(connection, since))
        # without routing.log_decisions nothing is logged, and what the router saw has to do
        seen = sum(at >= since for at in self._policy.killed)
        passed: tuple[str, ...] = ()
        settings = self._policy.settings
        if settings is not None and settings.cloud.project is not None:
            passed = await asyncio.to_thread(_passed, settings, now)
        return Signs(
            at=now,
            breaches=tuple(one for one in passed if not was_told(standing, one)),
            out_of_memory=max(logged, seen),
            bad_numbers=counts.bad_numbers,
            slow=counts.is_slow,
            bad_file=self._policy.bad_file,
            failures=counts.failures,
        )

    async def _is_night(self, now: float) -> bool:
        if self._policy.settings is None or now - self._night_tried < AGAIN_SECONDS:
            return False
        if self._night_failed:
            return True
        last = await self._journal.read(read_night)
        if last is None or now - last[0] > 1.5 * _DAY:
            return True
        return now - last[0] > _DAY / 2 and datetime.fromtimestamp(now).hour == NIGHT_HOUR

    async def _learn(self) -> bool:
        """In a process of its own, which is ended with this task; whether it went well."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "rl.live.nightly",
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=process_environment(),
        )
        try:
            async with asyncio.timeout(NIGHT_SECONDS):
                _, errors = await process.communicate(pickle.dumps(self._policy.settings))
        except TimeoutError:
            logger.error(
                "refitting took over %g s and was ended; it is tried again in an hour",
                NIGHT_SECONDS,
            )
            return False
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            last = errors.decode(errors="replace").strip().rpartition("\n")[2]
            logger.error("refitting failed, and is tried again in an hour: %s", last)
            return False
        return True


def _out_of_memory(connection: Connection, since: float) -> int:
    query = select(decisions.c.outcome).where(
        decisions.c.at >= since, decisions.c.outcome.is_not(None)
    )
    outcomes: list[dict[str, Any]] = list(connection.execute(query).scalars())
    return sum(one.get("cause") == OUT_OF_MEMORY for one in outcomes)


def _passed(settings: Settings, now: float) -> tuple[str, ...]:
    """The day and the month in which more was spent than the cap; the cent is for rounding."""
    moment = datetime.fromtimestamp(now, UTC)
    with Store(settings.store_url) as store:
        ledger = Ledger(store, PriceTable.of(settings.budget), settings.budget, lambda: moment)
        return tuple(
            str(one.window)
            for one in ledger.standing()
            if one.cap is not None and one.spent > one.cap + _CENT
        )
