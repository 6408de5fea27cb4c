"""Workflows and their events, on every database that the store supports."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from actors import workflow_records as records
from actors.workflow_records import EventRow, WorkflowRow
from ironcliw.errors import ConflictError, NotFoundError
from ironcliw.store import Store

NOW = 1764000000.123456
TEXT = "a \u00e9 \U0001f600 \" ' \\ \n \x00 \ud83d"  # the last is half a pair: JSON can say it


def workflow(workflow_id: str, **changes: Any) -> WorkflowRow:
    row = WorkflowRow(
        id=workflow_id,
        name="answer",
        owner="laptop",
        definition={"steps": {"a": {"function": "f"}}},
        inputs={"text": TEXT, "number": 0.1, "nothing": None, "list": [1, True]},
        status="running",
        priority=2,
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(row, **changes)


SUBMITTED = EventRow(1, NOW, "submitted", data={"by": "laptop"})
STARTED = EventRow(2, math.nextafter(NOW, 2e9), "step_started", "a", 3, 1, {"text": TEXT})
FAILED = EventRow(3, NOW + 1, "step_failed", "a", 3, 1, None)


def insert(store: Store, *rows: WorkflowRow) -> None:
    with store.write() as connection:
        for row in rows:
            assert records.insert_workflow(connection, row, [SUBMITTED]) == row.id


def test_a_workflow_comes_back_as_it_went_in(store: Store) -> None:
    row = workflow("w1", key="k", deadline=NOW + 0.1, error={"message": TEXT})
    insert(store, row, workflow("w2"))
    with store.read() as connection:
        assert records.load(connection, "w1") == replace(row, next_seq=2)
        assert records.load(connection, "w2").error is None
        with pytest.raises(NotFoundError, match="no workflow 'w3'"):
            records.load(connection, "w3")


def test_events_come_back_in_their_order(store: Store) -> None:
    insert(store, workflow("w1"))
    with store.write() as connection:
        events = [STARTED, FAILED]
        assert records.append_events(connection, "w1", 2, events, status="waiting") == 4
    with store.read() as connection:
        assert records.events_after(connection, "w1") == [SUBMITTED, STARTED, FAILED]
        assert records.events_after(connection, "w1", 2) == [FAILED]
        assert records.events_after(connection, "w1", 1, limit=1) == [STARTED]
        row = records.load(connection, "w1")
    assert (row.next_seq, row.status, row.updated_at) == (4, "waiting", FAILED.at)


def test_of_two_that_have_read_the_same_past_one_appends(store: Store) -> None:
    insert(store, workflow("w1"))
    with store.write() as connection:
        records.append_events(connection, "w1", 2, [STARTED], status="running")
    with pytest.raises(ConflictError, match="from number 2 on: its next event is number 3"):
        with store.write() as connection:
            records.append_events(connection, "w1", 2, [STARTED], status="failed")
    with pytest.raises(ConflictError, match="it does not exist"), store.write() as connection:
        records.append_events(connection, "w9", 2, [STARTED], status="failed")
    with store.read() as connection:
        assert records.events_after(connection, "w1") == [SUBMITTED, STARTED]
        assert records.load(connection, "w1").status == "running"


def test_a_submission_may_be_repeated_by_its_owner(store: Store) -> None:
    insert(store, workflow("w1", key="k"))
    with store.write() as connection:
        again = records.insert_workflow(connection, workflow("w2", key="k"), [SUBMITTED])
        assert again == "w1"
        other = workflow("w3", key="k", owner="another")
        assert records.insert_workflow(connection, other, [SUBMITTED]) == "w3"
    with store.read() as connection:
        assert [row.id for row in records.list_(connection)] == ["w3", "w1"]
        assert records.events_after(connection, "w2") == []
        assert records.find_submission(connection, "laptop", "other") is None


def test_an_id_is_given_once(store: Store) -> None:
    insert(store, workflow("w1"))
    with pytest.raises(IntegrityError, match="actors_workflows"):
        insert(store, workflow("w1"))


def test_open_workflows_come_with_their_events(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_CHUNK", 2)
    insert(store, *(workflow(f"w{i}") for i in range(7)))
    with store.write() as connection:
        records.append_events(connection, "w3", 2, [STARTED], status="running")
        done = EventRow(2, NOW, "completed")
        records.append_events(connection, "w4", 2, [done], status="completed", finished_at=NOW)
        failed = EventRow(2, NOW, "failed")
        records.append_events(
            connection, "w5", 2, [failed], status="failed", finished_at=NOW, error={"message": "x"}
        )
        records.insert_workflow(connection, workflow("w7"))
    with store.read() as connection:
        found = {row.id: events for row, events in records.load_open(connection)}
        assert records.load(connection, "w5").error == {"message": "x"}
        counts = records.count_by_status(connection)
    alone = [SUBMITTED]
    assert found == {
        **{f"w{i}": alone for i in (0, 1, 2, 6)},
        "w3": [SUBMITTED, STARTED],
        "w7": [],
    }
    assert list(found) == sorted(found)
    assert counts == {"running": 6, "completed": 1, "failed": 1}


def test_the_list_begins_with_the_newest_and_goes_on_where_it_ended(store: Store) -> None:
    moments = {"w1": 5.0, "w2": 7.0, "w3": 5.0, "w4": 6.0}
    insert(store, *(workflow(name, created_at=at) for name, at in moments.items()))
    insert(store, workflow("x1", name="other", owner="phone", status="failed", created_at=9.0))
    with store.read() as connection:

        def ids(**wanted: Any) -> list[str]:
            return [row.id for row in records.list_(connection, **wanted)]

        assert ids() == ["x1", "w2", "w4", "w3", "w1"]
        assert ids(limit=2, before="w2") == ["w4", "w3"]
        assert ids(before="w3") == ["w1"]
        assert ids(name="other") == ids(owner="phone") == ids(status="failed") == ["x1"]
        assert ids(status="failed", owner="laptop") == []
        with pytest.raises(NotFoundError, match="no workflow 'w9'"):
            ids(before="w9")
