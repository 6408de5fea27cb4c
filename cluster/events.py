"""The cluster's log of events: why machines came, went, or did not come.

`ray status` says "LaunchFailed" and no more; what a person needs to know stands here. Kinds in use:
launch, launch_failed, refused, joined, not_joined, preempted, drained, left, deleted, reaped,
budget, head, cloud, mismatch, report, max_run, foreign (a machine of another head with our
cluster's name).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, func, insert, select

from cluster.tables import cluster_events
from ironcliw.store import Store

KEPT_EVENTS = 10_000
"""Older ones are forgotten: at a refusal every five seconds, that is a day's worth at the least."""
_SLACK = 500  # forget in batches, so that few writes pay for it


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        at: In UTC.
        kind: One word, see the top of the module.
        message: One sentence for a person.
        facts: The same for programs.
    """

    at: datetime
    kind: str
    message: str
    facts: Mapping[str, Any]


class EventLog:
    """The events in the state store; shared by all processes that open it.

    Args:
        store: Migrated already.
        clock: The wall clock; aware datetimes.
    """

    def __init__(
        self, store: Store, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store = store
        self._clock = clock

    def add(self, kind: str, message: str, **facts: Any) -> None:
        """Notes that something happened now.

        Args:
            kind: One word, of at most 32 letters.
            message: One sentence for a person; no secret may be in it.
            facts: Values that JSON can hold.
        """
        row = {"at": self._clock(), "kind": kind, "message": message, "facts": facts}
        with self._store.write() as connection:
            key = connection.execute(insert(cluster_events).values(row)).inserted_primary_key
            if key is not None and key[0] % _SLACK == 0:
                old = cluster_events.c.id <= key[0] - KEPT_EVENTS
                connection.execute(delete(cluster_events).where(old))

    def recent(self, count: int, kinds: Collection[str] | None = None) -> Sequence[Event]:
        """The newest events, newest first.

        Args:
            count: At most so many.
            kinds: Only these; None: all.
        """
        table = cluster_events
        query = select(table.c.at, table.c.kind, table.c.message, table.c.facts)
        if kinds is not None:
            query = query.where(table.c.kind.in_(sorted(kinds)))
        with self._store.read() as connection:
            rows = connection.execute(query.order_by(table.c.id.desc()).limit(count)).all()
        return [Event(**row._mapping) for row in rows]

    def counts(self, since: datetime) -> dict[str, int]:
        """How many events of each kind there were since a time; kinds without any are absent."""
        table = cluster_events
        query = select(table.c.kind, func.count().label("number")).where(table.c.at >= since)
        with self._store.read() as connection:
            rows = connection.execute(query.group_by(table.c.kind))
            return {row.kind: row.number for row in rows}
