"""The client against a Compute API that behaves, and misbehaves, as Google's does."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from google.cloud import compute_v1

from cluster.gce.client import ComputeClient, GceError, Insertion
from cluster.gce.errors import Kind
from cluster.gce.requests import Preemption
from cluster.machines import VmStatus
from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import (
    ApiStorm,
    Denied,
    LostReply,
    UnreachableZone,
)
from tests.unit.cluster.compute_client import A, B, C, F, new_request


def test_machine_comes_and_goes(client: ComputeClient, clock: ManualClock) -> None:
    request = new_request()
    assert client.insert(request) == Insertion(notice_seconds=120)
    (vm,) = client.list_vms("home")
    assert (vm.name, vm.zone, vm.status) == (request.name, A, VmStatus.RUNNING)
    assert (vm.market, vm.max_run_seconds, vm.disk_gb) == ("spot", 14_400, 50)
    assert vm.labels == request.labels
    client.delete(vm.name, vm.zone)
    clock.advance(10)
    assert client.list_vms("home") == []


def test_list_has_every_page_and_only_the_clusters_machines(client: ComputeClient) -> None:
    ours = [new_request(zone) for zone in (A, B, C, F, A)]
    for request in [*ours, new_request(cluster="work")]:
        client.insert(request)
    names = [vm.name for vm in client.list_vms("home")]
    assert names == sorted(request.name for request in ours)


def test_list_is_one_call_where_there_is_one_page(
    client: ComputeClient, compute: FakeCompute
) -> None:
    client.list_vms("home")
    assert [call.path for call in compute.world.calls] == [
        "/compute/v1/projects/test-project/aggregated/instances"
    ]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (ApiStorm(), "unavailable"),
        (Denied(status=401), "auth"),
        (Denied(status=403), "auth"),
        (UnreachableZone(zone=B), "unavailable"),
    ],
)
def test_list_raises_instead_of_being_empty(
    client: ComputeClient, compute: FakeCompute, clock: ManualClock, fault: Any, kind: Kind
) -> None:
    client.insert(new_request())
    compute.world.add(fault)
    began = clock()
    with pytest.raises(GceError, match="list of the machines of cluster home") as raised:
        client.list_vms("home")
    assert raised.value.kind == kind
    assert clock() - began <= 8


def test_all_pages_of_a_list_share_one_patience(
    client: ComputeClient, compute: FakeCompute, clock: ManualClock
) -> None:
    for zone in (A, B, C, F):
        client.insert(new_request(zone))
    compute.world.add(ApiStorm(seconds=5, verbs=("GET",)))
    began = clock()
    assert len(client.list_vms("home")) == 4
    assert 5 <= clock() - began <= 8


@pytest.mark.parametrize("place", [f"zones/{B}", "regions/us-central1"])
def test_partial_list_is_refused(
    client: ComputeClient, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    warning = compute_v1.Warning(code="UNREACHABLE")
    scope = compute_v1.InstancesScopedList(warning=warning)
    page = compute_v1.InstanceAggregatedList(items={place: scope})
    monkeypatch.setattr(client.session, "call", lambda *_, **__: page)
    with pytest.raises(GceError, match=f"lacks {place.rpartition('/')[2]}") as raised:
        client.list_vms("home")
    assert raised.value.kind == "unavailable"


class TestZoneThatTheSettingsDoNotName:
    """It may be of our region: GCE cannot reach it, and nothing of ours is there."""

    @pytest.fixture
    def some(self, compute: FakeCompute, clock: ManualClock) -> ComputeClient:
        settings = compute.cloud(zones=(A, B))
        return ComputeClient(settings, clock=clock, sleep=clock.sleep)

    def test_it_stops_nothing(self, some: ComputeClient, compute: FakeCompute) -> None:
        request = new_request()
        some.insert(request)
        compute.world.add(UnreachableZone(zone=F, partial=True))
        assert [vm.name for vm in some.list_vms("home")] == [request.name]
        assert some.preemptions([A, B], datetime(2020, 1, 1, tzinfo=UTC)) == []

    def test_it_is_logged_once(
        self, some: ComputeClient, compute: FakeCompute, caplog: pytest.LogCaptureFixture
    ) -> None:
        for zone in (F, C):
            compute.world.add(UnreachableZone(zone=zone, partial=True))
            for _ in range(3):
                some.list_vms("home")
        assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
            f"the list of the machines of cluster home lacks {zone}" for zone in (F, C)
        ]

    def test_one_that_held_our_machines_before_is_waited_for(
        self, client: ComputeClient, some: ComputeClient, compute: FakeCompute
    ) -> None:
        client.insert(new_request(F))
        assert len(some.list_vms("home")) == 1
        compute.world.add(UnreachableZone(zone=F, partial=True))
        with pytest.raises(GceError, match=f"lacks {F}"):
            some.list_vms("home")


def test_the_end_of_a_console(client: ComputeClient, compute: FakeCompute) -> None:
    request = new_request()
    client.insert(request)
    compute.world.console = lambda instance: f"{instance.name} starts\nand fails\n".encode()
    assert client.console(request.name, A, 10) == "and fails\n"
    assert client.console(request.name, A, 1000) == f"{request.name} starts\nand fails\n"
    with pytest.raises(GceError, match="serial console of gone") as raised:
        client.console("gone", A, 10)
    assert raised.value.kind == "missing"


def test_delete_of_what_is_gone_is_fine(client: ComputeClient) -> None:
    client.delete("ironcliw-0a1b2c3d", A)


def test_delete_twice(client: ComputeClient) -> None:
    request = new_request()
    client.insert(request)
    client.delete(request.name, A)
    client.delete(request.name, A)


def test_delete_sends_one_id_however_often(client: ComputeClient, compute: FakeCompute) -> None:
    request = new_request()
    client.insert(request)
    compute.world.add(LostReply(verb="DELETE", path="*/instances/*", times=1))
    client.delete(request.name, A)
    deletes = [call.query["requestId"] for call in compute.world.calls if call.verb == "DELETE"]
    assert len(deletes) == 2
    assert len(set(deletes)) == 1
    assert uuid.UUID(deletes[0])


def test_delete_that_is_refused(client: ComputeClient, compute: FakeCompute) -> None:
    compute.world.add(Denied(status=403))
    with pytest.raises(GceError, match=f"delete of ironcliw-0a1b2c3d in {A}") as raised:
        client.delete("ironcliw-0a1b2c3d", A)
    assert raised.value.kind == "auth"


def test_preemptions_since_a_time(
    client: ComputeClient, compute: FakeCompute, clock: ManualClock
) -> None:
    requests = [new_request(A), new_request(B), new_request(C)]
    for request in requests:
        client.insert(request)
    times = []
    for request in requests:
        clock.advance(100)
        compute.world.preempt(compute.world.find(request.zone, request.name))
        times.append(datetime.fromtimestamp(clock(), UTC))
    clock.advance(300)
    found = client.preemptions([A, B, C], since=times[0])
    assert [one.name for one in found] == [request.name for request in requests]
    assert client.preemptions([A, B], since=found[1].at) == [
        Preemption(requests[1].name, B, found[1].at)
    ]


def test_threads_insert_list_and_delete_at_once(client: ComputeClient) -> None:
    requests = [new_request(zone) for zone in (A, B, C, F)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(client.insert, requests))
        lists = list(pool.map(client.list_vms, ["home"] * 4))
        list(pool.map(lambda request: client.delete(request.name, request.zone), requests))
    names = sorted(request.name for request in requests)
    assert [[vm.name for vm in one] for one in lists] == [names] * 4


def test_nothing_is_asked_of_any_other_endpoint(
    client: ComputeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    urls, send = [], requests.Session.send

    def watched(self: requests.Session, request: Any, **kwargs: Any) -> Any:
        urls.append(request.url)
        return send(self, request, **kwargs)

    monkeypatch.setattr(requests.Session, "send", watched)
    request = new_request()
    client.insert(request)
    client.list_vms("home")
    client.preemptions([A], datetime.now(UTC))
    client.capacity([A])
    client.project()
    client.delete(request.name, A)
    endpoint = client.cloud.api_endpoint
    assert endpoint is not None
    assert len(urls) > 6
    assert not [url for url in urls if not url.startswith(endpoint)]
