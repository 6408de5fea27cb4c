"""The link to the head: what is read, what is asked, and how it comes back after an error."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from ray.exceptions import RpcError

from cluster.config import HEAD_INSTANCE_ID
from cluster.control.demand import Bundle, ours
from cluster.control.gcs_link import GcsLink
from cluster.control.leases import LONGEST_SECONDS, NAMESPACE, drop, hold, leased, read_leases
from cluster.control.snapshot import Node
from ironcliw.errors import ClusterError, SettingsError
from tests.unit.cluster.fake_head import FakeHead

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def head() -> FakeHead:
    return FakeHead()


@pytest.fixture
def link(head: FakeHead) -> GcsLink:
    return GcsLink("127.0.0.1:1", HEAD_INSTANCE_ID, head.connect)


def node_id(name: str) -> str:
    return name.encode().hex()


def test_living_workers_are_seen(link: GcsLink, head: FakeHead) -> None:
    head.join("vm-1", "IDLE", idle_ms=2500)
    head.join("vm-2", "DRAINING")
    head.join("vm-3", "DEAD")
    head.join("")  # a node that somebody joined by hand
    assert link.look().nodes == (
        Node(node_id("vm-1"), "vm-1", False, 2.5),
        Node(node_id("vm-2"), "vm-2", True, 0.0),
    )


def test_demand_is_read_as_it_was_written(link: GcsLink, head: FakeHead) -> None:
    others = Bundle({"CPU": 1.0}, {"zone": "a"}, 2)
    head.demand = [(dict(others.resources), dict(others.selector), others.count)]
    link.demand(3)
    view = link.look()
    assert view.demand == (others, ours(3))
    assert view.demanded == 3
    link.demand(0)
    assert link.look().demand == (others,)


def test_a_node_is_drained_once(link: GcsLink, head: FakeHead) -> None:
    link.drain(node_id("vm-1"), "why", 30)
    link.drain(node_id("vm-1"), "why", 30)
    assert [drain[:2] for drain in head.drains] == [(node_id("vm-1"), "why")]


def test_a_refusal_is_an_error(link: GcsLink, head: FakeHead) -> None:
    head.refuses = True
    with pytest.raises(ClusterError, match="was refused: not now"):
        link.drain(node_id("vm-1"), "why", 30)


def test_after_an_error_a_new_client_is_made(link: GcsLink, head: FakeHead) -> None:
    link.look()
    link.look()
    assert head.connections == 1
    head.is_up = False
    with pytest.raises(RpcError):
        link.look()
    with pytest.raises(ConnectionRefusedError):
        link.look()
    head.is_up = True
    link.look()
    assert head.connections == 2


class TestLeases:
    def test_the_largest_that_holds_counts(self, link: GcsLink, head: FakeHead) -> None:
        hold(head, "a", 1, 60, NOW)
        hold(head, "b", 3, 10, NOW)
        leases = link.look().leases
        assert [lease.name for lease in leases] == ["a", "b"]
        assert leased(leases, NOW) == 3
        assert leased(leases, NOW + timedelta(seconds=10)) == 1
        assert leased(leases, NOW + timedelta(seconds=60)) == 0

    def test_one_can_be_renewed_and_dropped(self, head: FakeHead) -> None:
        hold(head, "a", 1, 10, NOW)
        hold(head, "a", 2, 60, NOW)
        assert leased(read_leases(head), NOW + timedelta(seconds=30)) == 2
        drop(head, "a")
        drop(head, "a")
        assert read_leases(head) == []

    @pytest.mark.parametrize(
        ("workers", "seconds"), [(0, 10), (-1, 10), (1, 0), (1, LONGEST_SECONDS + 1)]
    )
    def test_one_without_end_cannot_be_had(
        self, head: FakeHead, workers: int, seconds: float
    ) -> None:
        with pytest.raises(SettingsError, match="renew it"):
            hold(head, "a", workers, seconds, NOW)

    @pytest.mark.parametrize(
        "value", [b"", b"7", b"{}", b'{"workers": 1, "until": "2026-01-15T12:00:00"}']
    )
    def test_what_is_no_lease_is_none(self, head: FakeHead, value: bytes) -> None:
        head.stored[NAMESPACE, b"a"] = value
        assert read_leases(head) == []
