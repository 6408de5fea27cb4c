from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from cluster.vm.head import Journal
from cluster.vm.report import forget, parse_report, read_reports
from ironcliw.errors import ClusterError, NewerFormatError
from tests.unit.cluster.vm_stand_ins import FakeGcs

DOCUMENT: dict[str, Any] = {
    "format_version": 1,
    "at": 1000.5,
    "node_id": "ab",
    "boot": "b",
    "egress_bytes": 7,
    "events": [{"at": 1000.0, "kind": "joined", "message": "ab"}],
}


def test_what_a_vm_writes_is_read() -> None:
    gcs = FakeGcs("vm-1")
    for name in ("vm-2", "vm-1"):
        journal = Journal(name)
        journal.add("preempted", "now")
        gcs.internal_kv_put(name.encode(), journal.document("ab")[0], True, b"", 1.0)
    reports = read_reports(gcs).reports
    assert [report.name for report in reports] == ["vm-1", "vm-2"]
    assert [(event.kind, event.message) for event in reports[0].events] == [("preempted", "now")]
    assert reports[0].node_id == "ab"
    assert reports[0].boot
    assert abs(datetime.now(UTC) - reports[0].at).total_seconds() < 60
    forget(gcs, "vm-1")
    assert [report.name for report in read_reports(gcs).reports] == ["vm-2"]


def test_times_are_utc() -> None:
    report = parse_report("vm-1", json.dumps(DOCUMENT).encode())
    assert report.at == datetime(1970, 1, 1, 0, 16, 40, 500000, tzinfo=UTC)
    assert report.egress_bytes == 7


def test_a_newer_vm_is_refused() -> None:
    with pytest.raises(NewerFormatError, match=r"VM vm-1 reports in format 2.*upgrade the head"):
        parse_report("vm-1", json.dumps({**DOCUMENT, "format_version": 2}).encode())


DAMAGES: list[dict[str, Any]] = [
    {"events": [{}]},
    {"at": 1e300},
    {"at": float("inf")},
    {"boot": 65 * "b"},
    {"egress_bytes": -1},
    {"egress_bytes": 2**63},
    {"egress_bytes": float("inf")},
]


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff", b"[]", b"{}", *(json.dumps({**DOCUMENT, **one}).encode() for one in DAMAGES)],
)
def test_a_damaged_report_is_said(value: bytes) -> None:
    with pytest.raises(ClusterError, match="the report of VM vm-1 is damaged"):
        parse_report("vm-1", value)


def test_one_bad_report_does_not_hide_the_others() -> None:
    gcs = FakeGcs("vm-1")
    good = json.dumps(DOCUMENT).encode()
    newer = json.dumps({**DOCUMENT, "format_version": 2}).encode()
    stored = {b"vm-1": good, b"vm-2": b"{", b"vm-3": newer, b"vm-\xff": good}
    for name, value in stored.items():
        gcs.internal_kv_put(name, value, True, b"", 1.0)
    found = read_reports(gcs)
    assert [report.name for report in found.reports] == ["vm-1"]
    assert sorted(found.unreadable) == ["vm-2", "vm-3"]
    assert "the report of VM vm-2 is damaged" in found.unreadable["vm-2"]
    assert "upgrade the head" in found.unreadable["vm-3"]


def test_a_kind_is_text() -> None:
    strange = {**DOCUMENT, "events": [{"at": 1.0, "kind": ["joined"], "message": None}]}
    (event,) = parse_report("vm-1", json.dumps(strange).encode()).events
    assert (event.kind, event.message) == ("['joined']", "None")
