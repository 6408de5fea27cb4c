"""One open workflow: its state, and the events that are on their way to the store.

The state runs ahead of the store: an event is applied when it is made, so that what comes in next
is judged by it. What follows from an event waits until it is committed. Events of one workflow are
committed in order; while a commit is under way the next ones gather.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from actors.orchestration.attempts import Attempt
from actors.orchestration.start_queue import PRIORITIES
from actors.workflow.events import Event
from actors.workflow.machine import Machine
from actors.workflow.units import Unit
from actors.workflow.views import Facts
from actors.workflow_records import (
    FIRST_SEQ,
    EventRow,
    WorkflowRow,
    append_events,
    events_after,
    insert_workflow,
)


@dataclass(slots=True)
class Batch:
    """Events of one workflow that are committed together.

    Attributes:
        live: The workflow.
        first_seq: Of the first one.
        events: In order.
        effects: What is carried out after the commit.
        status: Of the workflow after them; `finished_at` and `error` likewise.
    """

    live: LiveWorkflow
    first_seq: int
    events: list[Event]
    effects: list[Callable[[], None]]
    status: str
    finished_at: float | None
    error: object


class LiveWorkflow:
    """An open workflow in memory.

    Attributes:
        machine: Its state, with the events that are not committed yet.
        facts: What is known of it beside its events.
        is_stored: Whether its row exists.
        is_flushing: Whether somebody commits its events.
        queued: Steps in the start queue.
        running: Steps that were started and have not ended.
        attempts: Those of them that an executor works on.
        is_turned: Whether its running steps were told to stop.
    """

    __slots__ = (
        "_committed",
        "_effects",
        "_error",
        "_events",
        "_waiters",
        "attempts",
        "facts",
        "is_flushing",
        "is_stored",
        "is_turned",
        "machine",
        "queued",
        "running",
    )

    def __init__(self, machine: Machine, facts: Facts, *, is_stored: bool) -> None:
        self.machine = machine
        self.facts = facts
        self.is_stored = is_stored
        self.is_flushing = False
        self.queued = 0
        self.running = 0
        self.attempts: dict[Attempt[Unit], None] = {}
        self.is_turned = False
        self._committed = machine.next_seq
        self._events: list[Event] = []
        self._effects: list[Callable[[], None]] = []
        self._error: Exception | None = None
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def has_pending(self) -> bool:
        """Whether there is something to commit or to carry out."""
        return bool(self._events or self._effects)

    def record(self, events: Sequence[Event], effect: Callable[[], None] | None = None) -> None:
        """Events that were applied, and what is to be done once they are committed."""
        self._events.extend(events)
        if effect is not None:
            self._effects.append(effect)

    def take(self) -> Batch:
        """What is to be committed next."""
        machine = self.machine
        batch = Batch(
            live=self,
            first_seq=FIRST_SEQ + self._committed,
            events=self._events,
            effects=self._effects,
            status=machine.status,
            finished_at=machine.updated_at if machine.finished else None,
            error=None if machine.error is None else dict(machine.error),
        )
        self._events, self._effects = [], []
        return batch

    def committed(self, batch: Batch) -> None:
        """The batch is on the disk: wake who waits for it."""
        self._committed += len(batch.events)
        self.is_stored = True
        left: list[tuple[int, asyncio.Future[None]]] = []
        for seq, waiter in self._waiters:
            if waiter.done():
                continue
            if seq <= self._committed:
                waiter.set_result(None)
            else:
                left.append((seq, waiter))
        self._waiters = left

    def fail(self, error: Exception) -> None:
        """Nothing more will be committed: whoever waits, or will, is told so."""
        self._error = error
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()  # some have stopped waiting: that is no error of theirs
        self._waiters.clear()

    async def until_committed(self) -> None:
        """Waits until all events that were made so far are on the disk."""
        if self._committed < self.machine.next_seq:
            await self._wait(self.machine.next_seq)

    def next_commit(self, after: int) -> asyncio.Future[None]:
        """Done when event number `after` + 1 is on the disk."""
        return self._wait(after + 1)

    def _wait(self, seq: int) -> asyncio.Future[None]:
        waiter = asyncio.get_running_loop().create_future()
        if self._committed >= seq:
            waiter.set_result(None)
        elif self._error is not None:
            waiter.set_exception(self._error)
            waiter.exception()
        else:
            self._waiters.append((seq, waiter))
        return waiter


def store(batch: Batch) -> Callable[[Connection], str]:
    """The work that commits a batch; it gives the workflow's id."""
    live, machine = batch.live, batch.live.machine
    rows = [
        EventRow(seq, each.at, each.kind, each.step, each.item, each.attempt, dict(each.data))
        for seq, each in enumerate(batch.events, batch.first_seq)
    ]
    if live.is_stored:

        def append(connection: Connection) -> str:
            append_events(
                connection,
                machine.id,
                batch.first_seq,
                rows,
                status=batch.status,
                finished_at=batch.finished_at,
                error=batch.error,
            )
            return machine.id

        return append
    row = _row(batch)
    return lambda connection: insert_workflow(connection, row, rows)


def was_stored(batch: Batch) -> Callable[[Connection], bool]:
    """The work that finds out whether a commit of which nobody heard was made."""
    wanted = [(each.kind, each.at, each.step, each.item) for each in batch.events]

    def compare(connection: Connection) -> bool:
        rows = events_after(
            connection, batch.live.machine.id, batch.first_seq - 1, limit=len(wanted)
        )
        return [(row.kind, row.at, row.step, row.item) for row in rows] == wanted

    return compare


def _row(batch: Batch) -> WorkflowRow:
    machine, facts = batch.live.machine, batch.live.facts
    return WorkflowRow(
        id=machine.id,
        name=machine.definition.name,
        owner=facts.owner,
        definition=machine.definition.source,
        inputs=dict(machine.inputs),
        status=batch.status,
        priority=PRIORITIES.index(facts.priority),
        created_at=machine.created_at,
        updated_at=machine.updated_at,
        key=facts.key,
        deadline=machine.deadline,
        finished_at=batch.finished_at,
        error=batch.error,
    )
