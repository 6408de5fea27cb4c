"""When a listing was so, by the clock of the cloud."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest

from cluster.gce.answer_time import AnswerTime, http_date
from cluster.gce.client import ComputeClient
from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import ClockSkew


def test_a_listing_has_the_time_of_the_cloud(
    compute: FakeCompute, client: ComputeClient, clock: ManualClock
) -> None:
    ours = datetime.fromtimestamp(clock(), UTC)
    assert client.listing("home").at == ours.replace(microsecond=0)
    compute.world.add(ClockSkew(by=3600.0))
    ahead = client.listing("home").at
    assert ahead is not None
    assert (ahead - ours).total_seconds() == pytest.approx(3600, abs=60)


@pytest.mark.parametrize("text", ["", "soon", "2026-11-22"])
def test_what_names_no_moment_is_none(text: str) -> None:
    assert http_date(text) is None


def test_each_thread_reads_its_own() -> None:
    times = AnswerTime()
    times.read([("DATE", "Sun, 22 Nov 2026 16:00:00 GMT")])
    found: list[datetime | None] = []
    thread = threading.Thread(target=lambda: found.append(times.last()))
    thread.start()
    thread.join()
    assert found == [None]
    assert times.last() == datetime(2026, 11, 22, 16, 0, tzinfo=UTC)
    times.read([("server", "gws")])
    assert times.last() is None
