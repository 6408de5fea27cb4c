"""Durable messages, on every database that the store supports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from actors import message_records as records
from actors.message_records import MessageRow
from ironcliw.errors import NotFoundError
from ironcliw.store import Store

NOW = 1764000000.25


def message(name: str, **changes: Any) -> MessageRow:
    row = MessageRow(
        id=name, recipient="writer", body={"text": [1, None]}, priority=2, created_at=NOW
    )
    return replace(row, **changes)


def insert(store: Store, *rows: MessageRow) -> list[bool]:
    with store.write() as connection:
        return records.insert_messages(connection, rows)


def pending(store: Store, recipient: str = "writer") -> list[str]:
    with store.read() as connection:
        return [row.id for row in records.load_pending(connection, recipient)]


def load(store: Store, name: str) -> MessageRow:
    with store.read() as connection:
        return records.load_message(connection, name)


def test_a_message_comes_back_as_it_went_in(store: Store) -> None:
    row = message("m1", sender="a", topic="t", correlation="c", key="k", deadline=NOW + 9)
    assert insert(store, row, message("m2", body=None)) == [True, True]
    assert load(store, "m1") == row
    assert load(store, "m2").body is None
    with pytest.raises(NotFoundError, match="no message 'm3'"):
        load(store, "m3")


def test_the_urgent_come_first_and_equals_in_their_order(store: Store) -> None:
    # ids and times say nothing of the order in which they were committed
    insert(store, message("z"), message("low", priority=3), message("a", created_at=0.0))
    insert(store, message("now", priority=0), message("other", recipient="reader"))
    assert pending(store) == ["now", "z", "a", "low"]
    with store.read() as connection:
        assert len(records.load_pending(connection, "writer", limit=2)) == 2


def test_a_key_is_taken_once_a_recipient(store: Store) -> None:
    assert insert(store, message("m1", key="k"), message("m2", key="k")) == [True, False]
    with store.write() as connection:
        records.mark_done(connection, ["m1"], NOW)
    assert insert(store, message("m3", key="k")) == [False], "its work is done"
    assert insert(store, message("m4", key="k", recipient="reader"), message("m5")) == [True, True]
    assert pending(store) == ["m5"]


def test_an_id_is_given_once(store: Store) -> None:
    insert(store, message("m1"))
    for key in (None, "k"):
        with pytest.raises(IntegrityError, match="actors_messages"):
            insert(store, message("m1", key=key))


def test_what_was_delivered_and_not_done_comes_again(store: Store) -> None:
    insert(store, *(message(f"m{i}") for i in range(4)))
    with store.write() as connection:
        records.mark_delivered(connection, ["m0", "m1", "m2"])
        records.mark_done(connection, ["m0"], NOW + 1)
        records.mark_done(connection, [], NOW)
        records.mark_delivered(connection, [])
    assert pending(store) == ["m1", "m2", "m3"]
    with store.write() as connection:
        records.requeue(connection, ["m0", "m1", "m3"], "the host was lost")
        records.mark_delivered(connection, ["m1", "m0"])
    one, done, never = load(store, "m1"), load(store, "m0"), load(store, "m3")
    assert (one.status, one.attempts, one.error) == ("delivered", 2, "the host was lost")
    assert (done.status, done.attempts, done.finished_at) == ("done", 1, NOW + 1)
    assert (never.status, never.error) == ("queued", None), "it was not delivered"


def test_many_are_put_back_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_CHUNK", 3)
    ids = [f"m{i}" for i in range(8)]
    insert(store, *(message(one) for one in ids))
    with store.write() as connection:
        records.mark_delivered(connection, ids)
        records.requeue(connection, ids)
    with store.read() as connection:
        assert records.count_by_status(connection) == {"queued": 8}


def test_the_life_of_a_dead_letter(store: Store) -> None:
    insert(store, *(message(f"m{i}") for i in range(3)), message("r", recipient="reader"))
    with store.write() as connection:
        records.mark_delivered(connection, ["m0"])
        records.mark_done(connection, ["m2"], NOW)
        for at, name in enumerate(("m0", "m1", "r", "m2")):
            records.mark_dead(connection, name, "it raised ValueError", NOW + at)
    with store.read() as connection:
        dead = records.dead_letters(connection)
        assert [row.id for row in dead] == ["r", "m1", "m0"], "what is done stays so"
        assert dead[2].error == "it raised ValueError"
        assert [row.id for row in records.dead_letters(connection, recipient="reader")] == ["r"]
        assert len(records.dead_letters(connection, limit=1)) == 1
    assert pending(store) == []

    with store.write() as connection:
        assert records.replay_dead(connection, "m0") == message("m0")
    assert pending(store) == ["m0"]
    for name in ("m0", "m9"):
        with pytest.raises(NotFoundError, match=f"no dead letter '{name}'"):
            with store.write() as connection:
                records.replay_dead(connection, name)


def test_what_was_done_long_ago_is_forgotten(store: Store) -> None:
    insert(store, message("old", key="k"), message("new"), message("dead"), message("open"))
    with store.write() as connection:
        records.mark_done(connection, ["old"], NOW)
        records.mark_done(connection, ["new"], NOW + 10)
        records.mark_dead(connection, "dead", "x", NOW)
        assert records.prune_done(connection, NOW + 5, 10) == 1
    with store.read() as connection:
        assert records.count_by_status(connection) == {"done": 1, "dead": 1, "queued": 1}
    assert insert(store, message("again", key="k")) == [True]
