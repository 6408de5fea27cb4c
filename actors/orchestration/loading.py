"""Workflows from the store: each one is what its events say."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection

from actors.orchestration.live import LiveWorkflow
from actors.orchestration.start_queue import PRIORITIES
from actors.workflow.definition import define
from actors.workflow.events import Event
from actors.workflow.limits import Limits
from actors.workflow.machine import Machine
from actors.workflow.views import Facts
from actors.workflow_records import EventRow, WorkflowRow, events_after, load, load_open
from ironcliw.errors import StoreError
from ironcliw.schemas.workflows import FINISHED, Failure, WorkflowView

_log = logging.getLogger(__name__)


def load_all_open(connection: Connection, limits: Limits) -> list[LiveWorkflow]:
    """All open workflows. One that cannot be read is left as it is, and told of in the log."""
    lives = []
    for row, events in load_open(connection):
        try:
            machine, facts = replay(row, events, limits)
        except StoreError as error:
            _log.error("%s; it stays as it is in the store", error)
            continue
        lives.append(LiveWorkflow(machine, facts, is_stored=True))
    return lives


def load_one(connection: Connection, workflow_id: str, limits: Limits) -> tuple[Machine, Facts]:
    """A workflow, open or not.

    Raises:
        NotFoundError: There is none of that id.
        StoreError: Its events cannot be read.
    """
    row = load(connection, workflow_id)
    return replay(row, events_after(connection, workflow_id), limits)


def replay(row: WorkflowRow, events: Iterable[EventRow], limits: Limits) -> tuple[Machine, Facts]:
    """The state after those events, and what is known beside them.

    Raises:
        StoreError: They do not fit together: they were changed, or written by a newer release.
    """
    try:
        machine = Machine(
            row.id,
            define(row.definition),
            row.inputs,
            created_at=row.created_at,
            deadline=row.deadline,
            limits=limits,
        )
        for event in events:
            kind: Any = event.kind
            machine.apply(Event(kind, event.at, event.step, event.item, event.attempt, event.data))
        return machine, facts_of(row)
    # boundary: what stands in a row may be anything, and must not keep the others from going on
    except Exception as error:
        raise StoreError(
            f"workflow {row.id} cannot be rebuilt from its events ({type(error).__name__}: "
            f"{error}): they were changed, or written by a newer release"
        ) from error


def facts_of(row: WorkflowRow) -> Facts:
    """What is known beside the events."""
    return Facts(row.owner, PRIORITIES[row.priority], row.key)


def summary_of(row: WorkflowRow) -> WorkflowView:
    """A line of a list: the row says it all."""
    status: Any = row.status
    error = None if row.error is None or status not in (*FINISHED, "failing") else row.error
    return WorkflowView(
        id=row.id,
        name=row.name,
        status=status,
        priority=PRIORITIES[row.priority],
        owner=row.owner,
        key=row.key,
        created_at=row.created_at,
        updated_at=row.updated_at,
        finished_at=row.finished_at,
        deadline=row.deadline,
        error=None if error is None else Failure.model_validate(error),
    )
