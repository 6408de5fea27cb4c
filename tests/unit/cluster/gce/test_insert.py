"""Making a machine, by an API that refuses, forgets, loses replies and falls silent."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest

from cluster.gce.client import ComputeClient, GceError, Insertion
from cluster.gce.errors import Kind
from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import (
    ApiStorm,
    Denied,
    LostReply,
    OperationFails,
    QuotaExceeded,
    RateLimited,
    RejectedField,
    SlowBoot,
    Stockout,
)
from cluster.vm.lifecycle import NOTICE_ATTRIBUTE
from tests.unit.cluster.compute_client import A, B, C, F, new_request


def inserts(compute: FakeCompute) -> list[str]:
    """The request ids of the inserts that reached the server, in order."""
    return [call.query["requestId"] for call in compute.world.calls if call.verb == "POST"]


def test_insert_returns_only_when_the_operation_is_done(
    client: ComputeClient, compute: FakeCompute, clock: ManualClock
) -> None:
    compute.world.add(SlowBoot(extra=20, stage="provisioning"))
    began = clock()
    client.insert(new_request())
    assert 20 <= clock() - began <= 23
    # half a second at first and two later: no storm of our own
    assert compute.count("GET", "*/operations/*") <= 14


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (Stockout(zone=A), "stockout", "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"),
        (Stockout(zone=A, hint=()), "stockout", "ZONE_RESOURCE_POOL_EXHAUSTED"),
        (QuotaExceeded(), "quota", "QUOTA_EXCEEDED"),
        (RateLimited(), "rate", "rateLimitExceeded"),
        (RateLimited(late=True), "rate", "RESOURCE_OPERATION_RATE_EXCEEDED"),
        (Denied(status=403), "auth", "forbidden"),
        (OperationFails(code="UNSUPPORTED_OPERATION"), "stockout", "UNSUPPORTED_OPERATION"),
    ],
)
def test_refused_insert_is_classed_and_sent_once(
    client: ComputeClient, compute: FakeCompute, fault: Any, kind: Kind, code: str
) -> None:
    compute.world.add(fault)
    request = new_request()
    with pytest.raises(GceError, match=f"insert of {request.name} in {A} failed") as raised:
        client.insert(request)
    assert (raised.value.kind, raised.value.code) == (kind, code)
    assert not raised.value.may_exist
    assert len(inserts(compute)) == 1


def test_stockout_names_the_zones_that_gce_names(
    client: ComputeClient, compute: FakeCompute
) -> None:
    compute.world.add(Stockout(zone=A))
    compute.world.add(Stockout(zone=C))
    with pytest.raises(GceError, match="EXHAUSTED_WITH_DETAILS") as raised:
        client.insert(new_request())
    assert raised.value.zones_available == (B, F)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machine_type": "e2-highmem-5"}, "e2-highmem-5"),
        ({"image": "projects/debian-cloud/global/images/family/debian-1"}, "debian-1"),
        ({"network": "global/networks/none"}, "network"),
        ({"zone": "us-central1-z"}, "us-central1-z"),
    ],
)
def test_wrong_setting_is_named(
    client: ComputeClient, change: dict[str, str], message: str
) -> None:
    with pytest.raises(GceError, match=message) as raised:
        client.insert(new_request(**change))
    assert raised.value.kind in ("invalid", "missing")


def test_name_in_use_is_not_taken_for_ours(client: ComputeClient) -> None:
    first = new_request()
    client.insert(first)
    with pytest.raises(GceError, match="already exists") as raised:
        client.insert(replace(first, request_id=str(uuid.uuid4())))
    assert raised.value.kind == "name"


def test_lost_reply_is_asked_for_again_with_the_same_id(
    client: ComputeClient, compute: FakeCompute
) -> None:
    compute.world.add(LostReply(times=2))
    request = new_request()
    client.insert(request)
    assert inserts(compute) == [request.request_id] * 3
    assert len(client.list_vms("home")) == 1


def test_insert_sent_again_after_a_crash_is_the_same_insert(client: ComputeClient) -> None:
    request = new_request()
    client.insert(request)
    client.insert(request)
    assert [vm.name for vm in client.list_vms("home")] == [request.name]


def test_name_taken_by_our_own_lost_try_is_success(
    client: ComputeClient, compute: FakeCompute, clock: ManualClock
) -> None:
    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        # as a front end of the API does that knows nothing of the first try
        compute._plane._requests.clear()

    compute.world.add(LostReply(times=1))
    client.session.sleep = sleep
    client.insert(new_request())
    assert len(inserts(compute)) == 2
    assert len(client.list_vms("home")) == 1


def test_name_taken_by_somebody_elses_machine_is_not_success(
    client: ComputeClient, compute: FakeCompute, clock: ManualClock
) -> None:
    theirs = new_request(cluster="work")
    client.insert(theirs)
    compute.world.add(ApiStorm(seconds=0.1, verbs=("POST",)))
    with pytest.raises(GceError, match="already exists") as raised:
        client.insert(new_request(name=theirs.name))
    assert raised.value.kind == "name"


def test_storm_ends_an_insert_in_time_and_says_that_it_may_have_worked(
    client: ComputeClient, compute: FakeCompute, clock: ManualClock
) -> None:
    compute.world.add(ApiStorm())
    began = clock()
    with pytest.raises(GceError, match="it is tried again") as raised:
        client.insert(new_request(), timeout=10)
    assert (raised.value.kind, raised.value.may_exist) == ("unavailable", True)
    assert clock() - began <= 10


def test_storm_during_polling_is_sat_out(
    client: ComputeClient, compute: FakeCompute, clock: ManualClock
) -> None:
    compute.world.add(ApiStorm(seconds=30, verbs=("GET",)))
    began = clock()
    client.insert(new_request())
    assert 30 <= clock() - began <= 45


def test_operation_that_is_not_done_in_time(
    client: ComputeClient, compute: FakeCompute, clock: ManualClock
) -> None:
    compute.world.add(SlowBoot(extra=100, stage="provisioning"))
    began = clock()
    with pytest.raises(GceError, match="not done in time") as raised:
        client.insert(new_request(), timeout=30)
    assert (raised.value.code, raised.value.may_exist) == ("OPERATION_TIMEOUT", True)
    assert clock() - began <= 30
    assert len(client.list_vms("home")) == 1


def test_operation_that_is_forgotten_may_have_worked(
    client: ComputeClient, compute: FakeCompute, clock: ManualClock
) -> None:
    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        compute.world.operations.clear()

    compute.world.add(SlowBoot(extra=100, stage="provisioning"))
    client.session.sleep = sleep
    with pytest.raises(GceError, match="poll of the insert") as raised:
        client.insert(new_request())
    assert (raised.value.kind, raised.value.may_exist) == ("missing", True)


def test_notice_that_is_refused_is_left_out_and_remembered(
    client: ComputeClient, compute: FakeCompute
) -> None:
    compute.world.add(RejectedField())
    first, second = new_request(), new_request()
    inserted = client.insert(first)
    assert inserted.notice_seconds == 30
    assert f"refuses a preemption notice of 120 s; {first.name} has 30 s" in inserted.remark
    assert client.insert(second) == Insertion(30)
    assert len(inserts(compute)) == 3
    body = compute.world.instances[A, first.name].body
    assert "preemptionNoticeDuration" not in body["scheduling"]
    # the agent must not count on two minutes
    assert {"key": NOTICE_ATTRIBUTE, "value": "30"} in body["metadata"]["items"]


def test_other_bad_request_is_not_sent_again_without_the_notice(
    client: ComputeClient, compute: FakeCompute
) -> None:
    with pytest.raises(GceError, match="e2-highmem-5"):
        client.insert(new_request(machine_type="e2-highmem-5"))
    assert len(inserts(compute)) == 1
