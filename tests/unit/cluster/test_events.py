"""The log of events: order, choice, and that it does not grow for ever."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster import events
from cluster.events import Event, EventLog
from ironcliw.store import Store

START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    moments = (START + timedelta(seconds=count) for count in range(10_000))
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as store:
        store.migrate()
        yield EventLog(store, clock=lambda: next(moments))


def test_the_newest_events_come_first_with_their_facts(log: EventLog) -> None:
    log.add("launch", "asked for ironcliw-1", zone="us-central1-a", attempt=2)
    log.add("refused", "month cap")
    assert log.recent(5) == [
        Event(START + timedelta(seconds=1), "refused", "month cap", {}),
        Event(START, "launch", "asked for ironcliw-1", {"zone": "us-central1-a", "attempt": 2}),
    ]
    assert [event.message for event in log.recent(1)] == ["month cap"]


def test_kinds_are_chosen(log: EventLog) -> None:
    for kind in ("launch", "left", "launch", "drained"):
        log.add(kind, kind)
    assert [event.kind for event in log.recent(9, ["launch", "left"])] == [
        "launch",
        "left",
        "launch",
    ]
    assert log.recent(9, []) == []


def test_kinds_are_counted(log: EventLog) -> None:
    for kind in ("launch", "left", "launch", "drained"):
        log.add(kind, kind)
    assert log.counts(START) == {"launch": 2, "left": 1, "drained": 1}
    assert log.counts(START + timedelta(seconds=2)) == {"launch": 1, "drained": 1}


def test_old_events_are_forgotten(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT_EVENTS", 7)
    monkeypatch.setattr(events, "_SLACK", 5)
    for count in range(20):
        log.add("launch", str(count))
    assert [event.message for event in log.recent(99)] == [
        str(count) for count in range(19, 12, -1)
    ]
