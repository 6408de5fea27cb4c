"""Durable messages in the state store; every function works inside a transaction.

    queued -> delivered -> done
    delivered -> queued          the recipient was lost, or failed and may try again
    queued, delivered -> dead    nobody can take it: a dead letter
    dead -> queued               somebody has it replayed

A message that is done stays for a while: its key must be known when its sender repeats it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from actors.tables import actors_messages as messages
from ironcliw.errors import NotFoundError

QUEUED: Final = "queued"
DELIVERED: Final = "delivered"
DONE: Final = "done"
DEAD: Final = "dead"

_CHUNK = 500  # ids in one statement: SQLite allows 32,766 parameters


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A durable message as it is stored.

    Attributes:
        id: Unique.
        recipient: Name of the agent.
        body: JSON.
        priority: 0 is the most urgent.
        created_at: Seconds since 1970.
        sender: Name of an agent; None: from outside.
        topic: Under which it was published.
        correlation: Of a reply: the id that it answers.
        key: A recipient gets at most one message with it.
        deadline: After it nobody wants it any more.
        status: See above.
        attempts: How often it was delivered.
        error: Why it is dead, or why the last attempt failed.
        finished_at: When it was done or dead.
    """

    id: str
    recipient: str
    body: Any
    priority: int
    created_at: float
    sender: str | None = None
    topic: str | None = None
    correlation: str | None = None
    key: str | None = None
    deadline: float | None = None
    status: str = QUEUED
    attempts: int = 0
    error: str | None = None
    finished_at: float | None = None


_COLUMNS = [messages.c[name] for name in MessageRow.__slots__]
_WHICH = messages.c.id == bindparam("which")
_OPEN = or_(messages.c.status == QUEUED, messages.c.status == DELIVERED)
_DELIVER = (
    update(messages).where(_WHICH, _OPEN).values(status=DELIVERED, attempts=messages.c.attempts + 1)
)
_FINISH = (
    update(messages)
    .where(_WHICH, _OPEN)
    .values(status=DONE, finished_at=bindparam("at"), error=None)
)


def insert_messages(connection: Connection, rows: Sequence[MessageRow]) -> list[bool]:
    """Stores messages in this order; one whose recipient has had its key is left out.

    Returns:
        For each whether it was stored; False: the recipient has it already.

    Raises:
        IntegrityError: SQLAlchemy's own: an id exists.
    """
    values = [{name: getattr(row, name) for name in MessageRow.__slots__} for row in rows]
    if all(row.key is None for row in rows):  # one statement for all
        if values:
            connection.execute(insert(messages), values)
        return [True] * len(values)
    make = sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
    insert_once = make(messages).on_conflict_do_nothing(index_elements=["recipient", "key"])
    once = insert_once.returning(messages.c.seq)
    return [connection.execute(once, one).first() is not None for one in values]


def mark_delivered(connection: Connection, ids: Sequence[str]) -> None:
    """Notes that the recipient has been handed messages, once more."""
    if ids:
        connection.execute(_DELIVER, [{"which": one} for one in ids])


def mark_done(connection: Connection, ids: Sequence[str], at: float) -> None:
    """Notes that the recipient has finished with messages; harmless to repeat."""
    if ids:
        connection.execute(_FINISH, [{"which": one, "at": at} for one in ids])


def mark_dead(connection: Connection, message_id: str, error: str, at: float) -> None:
    """Makes an open message a dead letter.

    Args:
        connection: In a transaction.
        message_id: Of the message.
        error: Why nobody can take it, for people.
        at: Seconds since 1970.
    """
    values = {"status": DEAD, "error": error, "finished_at": at}
    connection.execute(update(messages).where(messages.c.id == message_id, _OPEN).values(values))


def requeue(connection: Connection, ids: Sequence[str], error: str | None = None) -> None:
    """Puts delivered messages back: the recipient was lost, or has failed and may try again."""
    for some in _chunks(ids):
        which = and_(messages.c.id.in_(some), messages.c.status == DELIVERED)
        connection.execute(update(messages).where(which).values(status=QUEUED, error=error))


def load_pending(
    connection: Connection, recipient: str, limit: int | None = None
) -> list[MessageRow]:
    """What a recipient has not finished, delivered or not: the urgent first, then in their order.

    Whoever restarts a recipient replays these; delivered ones come a second time.
    """
    query = (
        select(*_COLUMNS)
        .where(messages.c.recipient == recipient, _OPEN)
        .order_by(messages.c.priority, messages.c.seq)
        .limit(limit)
    )
    return [MessageRow(*row) for row in connection.execute(query)]


def load_message(connection: Connection, message_id: str) -> MessageRow:
    """One message.

    Raises:
        NotFoundError: There is none with this id.
    """
    row = connection.execute(select(*_COLUMNS).where(messages.c.id == message_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no message {message_id!r}; list the dead letters there are")
    return MessageRow(*row)


def dead_letters(
    connection: Connection, *, recipient: str | None = None, limit: int = 100
) -> list[MessageRow]:
    """Dead letters, the latest first."""
    query = select(*_COLUMNS).where(messages.c.status == DEAD)
    if recipient is not None:
        query = query.where(messages.c.recipient == recipient)
    query = query.order_by(messages.c.finished_at.desc(), messages.c.seq.desc()).limit(limit)
    return [MessageRow(*row) for row in connection.execute(query)]


def replay_dead(connection: Connection, message_id: str) -> MessageRow:
    """Queues a dead letter again, as if it had never been delivered.

    Returns:
        The message as it is now.

    Raises:
        NotFoundError: No dead letter has this id.
    """
    change = update(messages).where(messages.c.id == message_id, messages.c.status == DEAD)
    values = {"status": QUEUED, "attempts": 0, "error": None, "finished_at": None}
    if connection.execute(change.values(values)).rowcount == 0:
        raise NotFoundError(f"there is no dead letter {message_id!r}; list those there are")
    return load_message(connection, message_id)


def prune_done(connection: Connection, before: float, limit: int) -> int:
    """Forgets messages that were done before a moment, the oldest first, and with them their keys.

    Returns:
        How many; fewer than `limit`: there are no more.
    """
    old = and_(messages.c.status == DONE, messages.c.finished_at < before)
    oldest = select(messages.c.seq).where(old).order_by(messages.c.finished_at).limit(limit)
    return connection.execute(delete(messages).where(messages.c.seq.in_(oldest))).rowcount


def count_by_status(connection: Connection) -> Mapping[str, int]:
    """How many messages stand where."""
    query = select(messages.c.status, func.count().label("number")).group_by(messages.c.status)
    return {row.status: row.number for row in connection.execute(query)}


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(ids)
    while some := list(islice(rest, _CHUNK)):
        yield some
