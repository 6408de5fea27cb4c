"""The decision log: one row a routing decision, with what it was made from and what came of it.

Rows wait in memory for a second at most and are written together: a decision is no promise, so one
that a crash takes away costs a row and nothing else. What had no alternative is not logged; it
would teach nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, bindparam, delete, select, update

from actors.routing import Choice, Option
from actors.tables import actors_decisions
from actors.workflow.shown import why_not_shown
from ironcliw.errors import IroncliwError

logger = logging.getLogger(__name__)

T = TypeVar("T")
FLUSH_SECONDS = 1.0
MOST_WAITING = 10_000
"""Rows and outcomes that wait while the store cannot be written; beyond it the oldest are lost."""
_DAY = 86_400.0
_PRUNE_SECONDS = 3_600.0
_ASKED_AT_ONCE = 500


class Writer(Protocol):
    """What commits work: `actors.journal.Journal`."""

    async def commit(self, work: Callable[[Connection], T]) -> T:
        """Run it in a transaction."""


@dataclasses.dataclass(frozen=True, slots=True)
class Decided:
    """One decision, for the log.

    Attributes:
        workflow_id: Of the step; None for an agent.
        step: Its name.
        attempt: Of the step.
        policy: Name of the policy.
        features: What it saw.
        options: Where it could choose.
        mask: What was allowed.
        choice: What it took.
        details: All else that a policy tells of it, as JSON has it; None: nothing.
    """

    workflow_id: str | None
    step: str | None
    attempt: int | None
    policy: str
    features: Mapping[str, float]
    options: Sequence[Option]
    mask: Sequence[bool]
    choice: Choice
    details: Mapping[str, Any] | None = None

    def row(self, id_: str, at: float) -> dict[str, Any]:
        """A row of `actors_decisions`; JSON has no infinity, so a feature without bound is null."""
        return {
            "id": id_,
            "at": at,
            "workflow_id": self.workflow_id,
            "step": self.step,
            "attempt": self.attempt,
            "policy": self.policy,
            "features": {
                name: value if math.isfinite(value) else None
                for name, value in self.features.items()
            },
            "options": [dataclasses.asdict(option) for option in self.options],
            "masks": list(self.mask),
            "chosen": self.choice.index,
            "propensity": self.choice.propensity,
            "details": None if self.details is None else dict(self.details),
            "outcome": None,
        }


class DecisionLog:
    """Collects decisions and their outcomes, and writes them now and then.

    Args:
        writer: The journal.
        keep_days: Older rows are deleted.
        clock: Unix time.
        enabled: With False nothing is kept.
    """

    def __init__(
        self,
        writer: Writer,
        keep_days: float,
        *,
        clock: Callable[[], float] = time.time,
        enabled: bool = True,
    ) -> None:
        self._writer = writer
        self._keep_seconds = keep_days * _DAY
        self._clock = clock
        self._enabled = enabled
        self._rows: dict[str, dict[str, Any]] = {}
        self._outcomes: dict[str, dict[str, Any]] = {}
        self._pruned = -math.inf
        self._is_doubtful = False
        self.lost = 0

    def note(self, decided: Decided) -> str | None:
        """Remember a decision; the id by which its outcome is told, None where none is wanted."""
        if not self._enabled or sum(decided.mask) < 2:
            return None
        id_ = uuid.uuid4().hex
        try:
            row = decided.row(id_, self._clock())
            _check(row)
        # what a policy tells of itself is its own affair: no step must wait for it
        except (TypeError, ValueError, RecursionError) as error:
            self._refuse(f"a decision of policy {decided.policy!r}", error)
            return None
        self._rows[id_] = row
        self._trim(self._rows)
        return id_

    def outcome(self, id_: str | None, outcome: Mapping[str, Any]) -> None:
        """What came of it, such as `{"ok": true, "seconds": 1.5}`."""
        if id_ is None:
            return
        try:
            _check(outcome)
        except (TypeError, ValueError, RecursionError) as error:
            self._refuse(f"the outcome of decision {id_}", error)
            return
        row = self._rows.get(id_)
        if row is not None:
            row["outcome"] = dict(outcome)
            return
        self._outcomes[id_] = dict(outcome)
        self._trim(self._outcomes)

    async def flush(self) -> None:
        """Write what waits; what cannot be written waits on.

        Raises:
            StoreError: the store cannot be used.
        """
        now = self._clock()
        prune = now - self._pruned >= _PRUNE_SECONDS
        if not (self._rows or self._outcomes or prune):
            return
        rows, self._rows = self._rows, {}
        outcomes, self._outcomes = self._outcomes, {}
        before = now - self._keep_seconds if prune else None
        doubtful = self._is_doubtful
        try:
            await self._writer.commit(lambda c: _write(c, rows, outcomes, before, doubtful))
        except (IroncliwError, asyncio.CancelledError):  # it is kept for the next time
            self._rows, self._outcomes = rows | self._rows, outcomes | self._outcomes
            # it may have been committed all the same, if the server went away meanwhile
            self._is_doubtful = True
            raise
        except Exception:  # the store is there, and refuses it: so it would the next time
            self.lost += len(rows) + len(outcomes)
            raise
        self._is_doubtful = False
        if prune:
            self._pruned = now

    async def run(self) -> None:
        """Write every second, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except IroncliwError as error:
                logger.warning("decisions are not written for now: %s", error)

    def _refuse(self, what: str, error: Exception) -> None:
        self.lost += 1
        logger.warning("%s is not logged, for the store would refuse it: %s", what, error)

    def _trim(self, waiting: dict[str, dict[str, Any]]) -> None:
        while len(waiting) > MOST_WAITING:
            del waiting[next(iter(waiting))]
            self.lost += 1


def _check(told: Mapping[str, Any]) -> None:
    """See that the store takes it: one that it refuses would keep all others from it.

    Raises:
        TypeError, ValueError, RecursionError: It is no JSON, or such that PostgreSQL has none of.
    """
    text = json.dumps(told, allow_nan=False)
    if "\\u0000" in text:
        raise ValueError("a text has the character 0, which PostgreSQL cannot keep")
    if (why := why_not_shown(json.loads(text))) is not None:
        raise ValueError(why)


def _write(
    connection: Connection,
    rows: Mapping[str, dict[str, Any]],
    outcomes: Mapping[str, Mapping[str, Any]],
    before: float | None,
    doubtful: bool,
) -> None:
    known_ids = _written(connection, list(rows)) if doubtful else set()
    if new := [row for id_, row in rows.items() if id_ not in known_ids]:
        connection.execute(actors_decisions.insert(), new)
    # of those that were written before, the outcome may have come since
    told = {id_: rows[id_]["outcome"] for id_ in known_ids if rows[id_]["outcome"] is not None}
    outcomes = {**told, **outcomes}
    if outcomes:
        known = update(actors_decisions).where(actors_decisions.c.id == bindparam("decision"))
        connection.execute(
            known.values(outcome=bindparam("what")),
            [{"decision": id_, "what": outcome} for id_, outcome in outcomes.items()],
        )
    if before is not None:
        connection.execute(delete(actors_decisions).where(actors_decisions.c.at < before))


def _written(connection: Connection, ids: list[str]) -> set[str]:
    found: set[str] = set()
    for first in range(0, len(ids), _ASKED_AT_ONCE):
        some = actors_decisions.c.id.in_(ids[first : first + _ASKED_AT_ONCE])
        found.update(connection.execute(select(actors_decisions.c.id).where(some)).scalars())
    return found
