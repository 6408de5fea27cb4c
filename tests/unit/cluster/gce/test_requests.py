"""A request becomes GCE's JSON, and GCE's JSON becomes a machine."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from google.cloud import compute_v1

from cluster.gce.errors import GceError
from cluster.gce.requests import (
    Preemption,
    asks_for_notice,
    to_instance,
    to_preemption,
    to_time,
    to_vm,
    without_notice,
)
from cluster.machines import CLUSTER_LABEL, TYPE_LABEL, VmRequest, VmStatus
from cluster.vm.lifecycle import NOTICE_ATTRIBUTE

ROOT = "https://www.googleapis.com/compute/v1/projects/p/zones/us-central1-a"
REQUEST = VmRequest(
    name="ironcliw-0a1b2c3d",
    zone="us-central1-a",
    machine_type="e2-highmem-4",
    market="spot",
    labels={CLUSTER_LABEL: "home", TYPE_LABEL: "spot"},
    metadata={"startup-script": "true", NOTICE_ATTRIBUTE: "120"},
    image="projects/debian-cloud/global/images/family/debian-12",
    disk_gb=50,
    network="global/networks/default",
    subnetwork=None,
    external_address=True,
    service_account="worker@p.iam.gserviceaccount.com",
    max_run_seconds=14_400,
    notice_seconds=120,
    request_id="7b0c4d4e-6d5f-4a58-9d6f-0d3f0d8f6f11",
)


def sent(request: VmRequest) -> dict[str, Any]:
    """The JSON of an insert."""
    text = compute_v1.Instance.to_json(
        to_instance(request),
        use_integers_for_enums=False,
        always_print_fields_with_no_presence=False,
    )
    body: dict[str, Any] = json.loads(text)
    return body


def listed(**changes: Any) -> compute_v1.Instance:
    """A machine as a list has it."""
    body = {
        "name": "ironcliw-0a1b2c3d",
        "zone": ROOT,
        "machineType": f"{ROOT}/machineTypes/e2-highmem-4",
        "status": "RUNNING",
        "creationTimestamp": "2030-01-31T16:00:00.250-08:00",
        "lastStartTimestamp": "2030-01-31T16:00:09.000-08:00",
        "labels": {CLUSTER_LABEL: "home"},
        "scheduling": {
            "provisioningModel": "SPOT",
            "preemptible": True,
            "maxRunDuration": {"seconds": "14400"},
        },
        "disks": [{"diskSizeGb": "50"}, {"diskSizeGb": "10"}],
        "networkInterfaces": [
            {"networkIP": "10.128.0.2", "accessConfigs": [{"natIP": "203.0.113.1"}]}
        ],
        **changes,
    }
    read: compute_v1.Instance = compute_v1.Instance.from_json(json.dumps(body))
    return read


def test_spot_machine_is_deleted_not_stopped_and_ends_by_itself() -> None:
    assert sent(REQUEST)["scheduling"] == {
        "provisioningModel": "SPOT",
        "instanceTerminationAction": "DELETE",
        "maxRunDuration": {"seconds": "14400"},
        "preemptionNoticeDuration": {"seconds": "120"},
    }


def test_regular_machine_ends_by_itself_and_has_no_notice() -> None:
    assert sent(replace(REQUEST, market="regular"))["scheduling"] == {
        "provisioningModel": "STANDARD",
        "instanceTerminationAction": "DELETE",
        "maxRunDuration": {"seconds": "14400"},
    }


@pytest.mark.parametrize("seconds", [0, 30])
def test_short_notice_is_not_asked_for(seconds: int) -> None:
    request = replace(REQUEST, notice_seconds=seconds)
    assert not asks_for_notice(request)
    assert "preemptionNoticeDuration" not in sent(request)["scheduling"]


def test_everything_else_of_an_insert() -> None:
    body = sent(REQUEST)
    del body["scheduling"]
    labels = {CLUSTER_LABEL: "home", TYPE_LABEL: "spot"}
    assert body == {
        "name": "ironcliw-0a1b2c3d",
        "machineType": "zones/us-central1-a/machineTypes/e2-highmem-4",
        "labels": labels,
        "metadata": {
            "items": [
                {"key": "startup-script", "value": "true"},
                {"key": NOTICE_ATTRIBUTE, "value": "120"},
            ]
        },
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "initializeParams": {
                    "sourceImage": "projects/debian-cloud/global/images/family/debian-12",
                    "diskSizeGb": "50",
                    "diskType": "zones/us-central1-a/diskTypes/pd-balanced",
                    "labels": labels,
                },
            }
        ],
        "networkInterfaces": [
            {
                "network": "global/networks/default",
                "accessConfigs": [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}],
            }
        ],
        "serviceAccounts": [
            {
                "email": "worker@p.iam.gserviceaccount.com",
                "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
            }
        ],
    }


def test_what_is_not_wanted_is_not_sent() -> None:
    body = sent(replace(REQUEST, external_address=False, service_account=None, subnetwork="sub"))
    assert body["networkInterfaces"] == [
        {"network": "global/networks/default", "subnetwork": "sub"}
    ]
    assert "serviceAccounts" not in body


def test_request_without_notice_is_another_one_and_always_the_same() -> None:
    plain = without_notice(REQUEST)
    assert plain == without_notice(REQUEST)
    assert plain.request_id != REQUEST.request_id
    assert uuid.UUID(plain.request_id)
    assert (plain.notice_seconds, plain.metadata[NOTICE_ATTRIBUTE]) == (30, "30")
    assert REQUEST.metadata[NOTICE_ATTRIBUTE] == "120"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Ironcliw"}, "machine name 'Ironcliw'"),
        ({"name": "a" * 64}, "1 to 63"),
        ({"labels": {"Type": "x"}}, "label 'Type'"),
        ({"labels": {"type": "node:Head"}}, "label 'type': 'node:Head'"),
        ({"request_id": "1"}, "request_id '1'.*no UUID"),
        ({"max_run_seconds": 0}, "max_run_seconds"),
        ({"metadata": {"big": "x" * (256 * 1024 + 1)}}, "'big'.*262145 bytes"),
        ({"metadata": dict.fromkeys("abc", "x" * 200_000)}, "600003 bytes"),
    ],
)
def test_what_gce_would_refuse_is_refused_before(change: dict[str, Any], message: str) -> None:
    with pytest.raises(GceError, match=message) as raised:
        to_instance(replace(REQUEST, **change))
    assert raised.value.kind == "invalid"


def test_listed_machine() -> None:
    vm = to_vm(listed())
    assert (vm.name, vm.zone, vm.machine_type) == (
        "ironcliw-0a1b2c3d",
        "us-central1-a",
        "e2-highmem-4",
    )
    assert (vm.market, vm.status, vm.max_run_seconds) == ("spot", VmStatus.RUNNING, 14_400)
    assert vm.created_at == datetime(2030, 2, 1, 0, 0, 0, 250_000, tzinfo=UTC)
    assert vm.created_at.tzinfo is UTC
    assert vm.started_at == datetime(2030, 2, 1, 0, 0, 9, tzinfo=UTC)
    assert vm.stopped_at is None
    assert (vm.disk_gb, vm.address, vm.has_external_address) == (60, "10.128.0.2", True)
    assert vm.labels == {CLUSTER_LABEL: "home"}


def test_machine_with_little_said_about_it() -> None:
    vm = to_vm(listed(scheduling={}, networkInterfaces=[], disks=[], labels={}))
    assert (vm.market, vm.max_run_seconds, vm.address) == ("regular", None, "")
    assert not vm.has_external_address


@pytest.mark.parametrize(
    ("said", "status"),
    [
        *((status.value, status) for status in VmStatus),
        ("PENDING", VmStatus.PROVISIONING),
        ("PENDING_STOP", VmStatus.STOPPING),
        ("DEPROVISIONING", VmStatus.STOPPING),
        ("STOPPED", VmStatus.TERMINATED),
        ("LEVITATING", VmStatus.RUNNING),
    ],
)
def test_state(said: str, status: VmStatus) -> None:
    assert to_vm(listed(status=said)).status is status


def test_preemption() -> None:
    operation = compute_v1.Operation.from_json(
        json.dumps(
            {
                "targetLink": f"{ROOT}/instances/ironcliw-0a1b2c3d",
                "zone": ROOT,
                "insertTime": "2030-01-31T16:00:00-08:00",
            }
        )
    )
    at = datetime(2030, 2, 1, tzinfo=UTC)
    assert to_preemption(operation) == Preemption("ironcliw-0a1b2c3d", "us-central1-a", at)


@pytest.mark.parametrize("text", ["", "yesterday"])
def test_time_that_is_none(text: str) -> None:
    with pytest.raises(GceError, match="where a time belongs"):
        to_time(text)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120), ("15", 15), ("0", 30), ("", 30), ("soon", 30), ("9" * 5000, 30)],
)
def test_a_machines_notice_is_what_its_agent_was_told(value: str, seconds: int) -> None:
    items = [{"key": "startup-script", "value": "7"}, {"key": NOTICE_ATTRIBUTE, "value": value}]
    assert to_vm(listed(metadata={"items": items})).notice_seconds == seconds


def test_the_notice_of_a_machine_that_was_told_none() -> None:
    assert to_vm(listed()).notice_seconds == 30
