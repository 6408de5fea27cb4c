from __future__ import annotations

import json
import queue
import socket
import time

import pytest

from cluster.vm.head import Head, Journal, connect_to_gcs, drain_once
from cluster.vm.lifecycle import Event, Kind
from tests.unit.cluster.vm_stand_ins import NODE_ID, FakeGcs
from tests.waiting import PATIENCE_SECONDS, wait_for

NAME = "ironcliw-0badcafe"


def head_of(gcs: FakeGcs) -> tuple[Head, Journal, queue.SimpleQueue[Event]]:
    told: queue.SimpleQueue[Event] = queue.SimpleQueue()
    journal = Journal(NAME)
    head = Head("head:6380", journal, told.put, gcs.connect)
    head.expect(NODE_ID.hex())
    return head, journal, told


def event_of(told: queue.SimpleQueue[Event], kind: Kind) -> Event:
    ends = time.monotonic() + PATIENCE_SECONDS
    while (event := told.get(timeout=max(0.01, ends - time.monotonic()))).kind is not kind:
        pass
    return event


def test_it_finds_its_node_and_reports(capsys: pytest.CaptureFixture[str]) -> None:
    gcs = FakeGcs(NAME)
    head, journal, told = head_of(gcs)
    head.start()
    assert event_of(told, Kind.JOINED).message == NODE_ID.hex()
    event_of(told, Kind.HEAD_ANSWERED)
    journal.add("drained", "in time")
    head.flush(10.0)
    document = json.loads(gcs.stored[NAME.encode()])
    assert document["node_id"] == NODE_ID.hex()
    assert document["egress_bytes"] >= 0
    assert gcs.kinds() == ["drained"]
    # the serial console has it too
    assert json.loads(capsys.readouterr().out)["kind"] == "drained"


def test_a_node_has_joined_when_the_gcs_calls_it_alive() -> None:
    gcs = FakeGcs(NAME, node_is_alive=False)
    head, _, told = head_of(gcs)
    head.start()
    assert told.get(timeout=PATIENCE_SECONDS).kind is Kind.HEAD_ANSWERED
    gcs.node_is_alive = True
    event_of(told, Kind.JOINED)


def test_what_could_not_be_sent_is_sent_later() -> None:
    gcs = FakeGcs(NAME, is_reachable=False)
    head, journal, told = head_of(gcs)
    head.start()
    journal.add("preempted", "")
    wait_for(lambda: journal.count == 2)
    gcs.is_reachable = True
    event_of(told, Kind.HEAD_ANSWERED)
    assert sorted(gcs.kinds()) == ["head_unreachable", "preempted"]


def test_flush_does_not_wait_for_ever() -> None:
    head, journal, _ = head_of(FakeGcs(NAME, is_reachable=False))
    journal.add("power_off", "")
    began = time.monotonic()
    head.flush(0.2)
    assert 0.2 <= time.monotonic() - began < 5.0


def test_a_drain_says_when_the_node_will_be_gone() -> None:
    gcs = FakeGcs(NAME)
    head, _, told = head_of(gcs)
    head.start()
    event_of(told, Kind.JOINED)
    head.drain("preempted", 25.5)
    assert event_of(told, Kind.DRAIN_ANSWERED).accepted
    node, reason, message, deadline_ms = gcs.drains[0]
    assert (node, message) == (NODE_ID.hex(), "preempted")
    assert reason == 2, "DRAIN_NODE_REASON_PREEMPTION"
    assert deadline_ms / 1000 - time.time() == pytest.approx(25.5, abs=5.0)


def test_a_drain_that_nobody_hears_is_said_to_have_failed() -> None:
    head, _, told = head_of(FakeGcs(NAME, is_reachable=False))
    head.drain("preempted", 25.5)
    assert told.get(timeout=PATIENCE_SECONDS).kind is Kind.DRAIN_FAILED


def test_a_drain_whose_answer_was_lost_is_not_sent_twice() -> None:
    gcs = FakeGcs(NAME, failing_drains=1)
    head, _, told = head_of(gcs)
    head.start()
    event_of(told, Kind.JOINED)
    head.drain("preempted", 25.5)
    event_of(told, Kind.DRAIN_FAILED)
    head.drain("preempted", 24.0)
    assert "already" in event_of(told, Kind.DRAIN_ANSWERED).message
    assert len(gcs.drains) == 1


def test_drain_once_of_a_draining_node_sends_nothing() -> None:
    gcs = FakeGcs(NAME, drains=[("ab", 2, "", 0)])
    assert drain_once(gcs, "ab", "preempted", 5.0) == (True, "it was draining already")
    assert len(gcs.drains) == 1


def test_no_head_is_noticed_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionRefusedError, match="refused"):
            connect_to_gcs(address)


def test_only_the_last_events_are_kept() -> None:
    journal = Journal(NAME)
    for number in range(60):
        journal.add("hook_done", str(number))
    document, count = journal.document("")
    assert count == 60
    assert [event["message"] for event in json.loads(document)["events"]] == [
        str(number) for number in range(10, 60)
    ]
