"""Workflows and their events in the state store; every function works inside a transaction.

An event is never changed and never removed while its workflow exists. They are numbered from 1;
whoever appends says which number comes first, so of two that have read the same past one fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, or_, select, update

from actors.tables import actors_workflow_events as events_table
from actors.tables import actors_workflows as workflows
from ironcliw.errors import ConflictError, NotFoundError

FIRST_SEQ = 1
_CHUNK = 500  # workflows whose events are read at once


@dataclass(frozen=True, slots=True)
class WorkflowRow:
    """A workflow as it is stored.

    Attributes:
        id: Unique; ids that grow with time keep the rows of open workflows together.
        name: Of its definition.
        owner: Name of the API key that submitted it, or "local".
        definition: JSON.
        inputs: JSON.
        status: The machine's word for where it stands.
        priority: 0 is the most urgent.
        created_at: Seconds since 1970, as all times here.
        updated_at: When its last events were appended.
        key: With which the owner can repeat the submission; unique for each owner.
        deadline: None: it has none.
        finished_at: None: it is open, and `load_open` finds it.
        next_seq: Number of the event that is appended next.
        error: Why it failed, JSON.
    """

    id: str
    name: str
    owner: str
    definition: Any
    inputs: Any
    status: str
    priority: int
    created_at: float
    updated_at: float
    key: str | None = None
    deadline: float | None = None
    finished_at: float | None = None
    next_seq: int = FIRST_SEQ
    error: Any = None


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event as it is stored.

    Attributes:
        seq: Its number in its workflow.
        at: Seconds since 1970.
        kind: What happened.
        step: To which step; None: to the workflow.
        item: Index in the step's fan-out; None: it has none.
        attempt: Of the step, from 1.
        data: JSON.
    """

    seq: int
    at: float
    kind: str
    step: str | None = None
    item: int | None = None
    attempt: int | None = None
    data: Any = field(default_factory=dict)


_EVENT_COLUMNS = [events_table.c[name] for name in EventRow.__slots__]
_WORKFLOW_COLUMNS = [workflows.c[name] for name in WorkflowRow.__slots__]

# built once: building a statement costs as much as running it
_APPEND = insert(events_table)
_ADVANCE = (
    update(workflows)
    .where(workflows.c.id == bindparam("which"), workflows.c.next_seq == bindparam("first"))
    .values(
        next_seq=bindparam("next"),
        updated_at=bindparam("at"),
        status=bindparam("now"),
        finished_at=bindparam("finished"),
        error=bindparam("why"),
    )
)


def insert_workflow(
    connection: Connection, row: WorkflowRow, events: Sequence[EventRow] = ()
) -> str:
    """Stores a new workflow and its first events.

    Returns:
        Its id, or the id of the one that the owner has submitted with the same key before; nothing
        is stored then.

    Raises:
        IntegrityError: SQLAlchemy's own: the id exists.
    """
    if row.key is not None:
        earlier = find_submission(connection, row.owner, row.key)
        if earlier is not None:
            return earlier
    _check_numbers(row.next_seq, events)
    values = asdict(row) | {"next_seq": row.next_seq + len(events)}
    connection.execute(insert(workflows), values)
    _insert_events(connection, row.id, events)
    return row.id


def find_submission(connection: Connection, owner: str, key: str) -> str | None:
    """The id of the workflow that an owner has submitted with a key; None: there is none."""
    query = select(workflows.c.id).where(workflows.c.owner == owner, workflows.c.key == key)
    return connection.execute(query).scalar_one_or_none()


def append_events(
    connection: Connection,
    workflow_id: str,
    first_seq: int,
    events: Sequence[EventRow],
    *,
    status: str,
    finished_at: float | None = None,
    error: Any = None,
) -> int:
    """Appends events and notes where the workflow stands after them.

    Args:
        connection: In a transaction.
        workflow_id: It exists.
        first_seq: The number of the first one, which says how much of the past the caller knows.
        events: At least one, numbered from there.
        status: After the last of them.
        finished_at: When the last of them ends the workflow.
        error: JSON: why it failed.

    Returns:
        The number of the event after them.

    Raises:
        ConflictError: Somebody has appended meanwhile, or there is no such workflow; nothing was
            written.
    """
    _check_numbers(first_seq, events)
    after = first_seq + len(events)
    values = {"which": workflow_id, "first": first_seq, "next": after, "at": events[-1].at}
    values |= {"now": status, "finished": finished_at, "why": error}
    if connection.execute(_ADVANCE, values).rowcount == 0:
        query = select(workflows.c.next_seq).where(workflows.c.id == workflow_id)
        found = connection.execute(query).scalar_one_or_none()
        told = "it does not exist" if found is None else f"its next event is number {found}"
        raise ConflictError(
            f"events of workflow {workflow_id} cannot be appended from number {first_seq} on: "
            f"{told}; read it again"
        )
    _insert_events(connection, workflow_id, events)
    return after


def load(connection: Connection, workflow_id: str) -> WorkflowRow:
    """One workflow.

    Raises:
        NotFoundError: There is none with this id.
    """
    query = select(*_WORKFLOW_COLUMNS).where(workflows.c.id == workflow_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no workflow {workflow_id!r}; list those there are")
    return WorkflowRow(*row)


def load_open(connection: Connection) -> Iterator[tuple[WorkflowRow, list[EventRow]]]:
    """All workflows that have not finished, by id, each with its events in their order."""
    last = ""
    while rows := _open_after(connection, last):
        query = (
            select(events_table.c.workflow_id, *_EVENT_COLUMNS)
            .where(events_table.c.workflow_id.in_([row.id for row in rows]))
            .order_by(events_table.c.workflow_id, events_table.c.seq)
        )
        found = groupby(connection.execute(query), key=lambda event: event[0])
        by_id = {name: [EventRow(*event[1:]) for event in group] for name, group in found}
        for row in rows:
            yield row, by_id.get(row.id, [])
        last = rows[-1].id


def list_(
    connection: Connection,
    *,
    status: str | None = None,
    name: str | None = None,
    owner: str | None = None,
    limit: int = 100,
    before: str | None = None,
) -> list[WorkflowRow]:
    """Workflows, the newest first.

    Args:
        connection: To the store.
        status: Only those that stand so.
        name: Only those of this definition.
        owner: Only those of this owner.
        limit: At most so many.
        before: Id of the last one of the page before.

    Raises:
        NotFoundError: There is no workflow `before`.
    """
    query = select(*_WORKFLOW_COLUMNS)
    wanted = {"status": status, "name": name, "owner": owner}
    for column, value in wanted.items():
        if value is not None:
            query = query.where(workflows.c[column] == value)
    if before is not None:
        last = load(connection, before)
        older = workflows.c.created_at < last.created_at
        same = and_(workflows.c.created_at == last.created_at, workflows.c.id < last.id)
        query = query.where(or_(older, same))
    query = query.order_by(workflows.c.created_at.desc(), workflows.c.id.desc()).limit(limit)
    return [WorkflowRow(*row) for row in connection.execute(query)]


def events_after(
    connection: Connection, workflow_id: str, seq: int = 0, limit: int | None = None
) -> list[EventRow]:
    """The events of a workflow whose number is higher than `seq`, in their order."""
    query = (
        select(*_EVENT_COLUMNS)
        .where(events_table.c.workflow_id == workflow_id, events_table.c.seq > seq)
        .order_by(events_table.c.seq)
        .limit(limit)
    )
    return [EventRow(*row) for row in connection.execute(query)]


def count_by_status(connection: Connection) -> Mapping[str, int]:
    """How many workflows stand where."""
    query = select(workflows.c.status, func.count().label("number")).group_by(workflows.c.status)
    return {row.status: row.number for row in connection.execute(query)}


@dataclass(frozen=True, slots=True)
class Ended:
    """A workflow that has ended.

    Attributes:
        id: Its id.
        finished_at: When it ended.
        events: How many it has.
    """

    id: str
    finished_at: float
    events: int


def ended_before(
    connection: Connection, before: float, after: Ended | None, most_events: int
) -> list[Ended]:
    """Workflows that ended before a moment, in the order in which they ended.

    Args:
        connection: To the store.
        before: Seconds since 1970.
        after: The last one of the page before.
        most_events: Of all on the page together; one that has more stands alone.
    """
    ended = workflows.c.finished_at
    query = select(workflows.c.id, ended, workflows.c.next_seq).where(ended < before)
    if after is not None:
        same = and_(ended == after.finished_at, workflows.c.id > after.id)
        query = query.where(or_(ended > after.finished_at, same))
    query = query.order_by(ended, workflows.c.id).limit(_CHUNK)
    page: list[Ended] = []
    events = 0
    for id_, finished_at, next_seq in connection.execute(query):
        events += next_seq - FIRST_SEQ
        if page and events > most_events:
            break
        page.append(Ended(id_, finished_at, next_seq - FIRST_SEQ))
    return page


def remove_ended(connection: Connection, ids: Sequence[str]) -> int:
    """Forgets workflows that have ended, with their events and keys; at most 500 of them.

    Returns:
        How many there were.
    """
    which = and_(workflows.c.id.in_(ids), workflows.c.finished_at.is_not(None))
    gone = connection.execute(delete(workflows).where(which).returning(workflows.c.id))
    names = list(gone.scalars())
    connection.execute(delete(events_table).where(events_table.c.workflow_id.in_(names)))
    return len(names)


def _open_after(connection: Connection, last: str) -> list[WorkflowRow]:
    query = (
        select(*_WORKFLOW_COLUMNS)
        .where(workflows.c.finished_at.is_(None), workflows.c.id > last)
        .order_by(workflows.c.id)
        .limit(_CHUNK)
    )
    return [WorkflowRow(*row) for row in connection.execute(query)]


def _insert_events(connection: Connection, workflow_id: str, events: Sequence[EventRow]) -> None:
    if events:
        rows = [{"workflow_id": workflow_id, **_values(event)} for event in events]
        connection.execute(_APPEND, rows if len(rows) > 1 else rows[0])


def _values(event: EventRow) -> dict[str, Any]:
    return {name: getattr(event, name) for name in EventRow.__slots__}


def _check_numbers(first_seq: int, events: Sequence[EventRow]) -> None:
    for seq, event in enumerate(events, first_seq):
        assert event.seq == seq, f"event {event.seq} stands where number {seq} belongs"
