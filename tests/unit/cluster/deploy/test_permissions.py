"""The head's role in Terraform: what the calls of `cluster/gce` need, call by call, and no more."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import cluster.gce
from cluster.gce.client import ComputeClient
from cluster.gce.session import Session
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.world import World
from tests.unit.cluster.compute_client import A, new_request

from .terraform_files import read_blocks

Call = tuple[str, str]

# What each method needs, by "IAM permissions" on its page below
# https://cloud.google.com/compute/docs/reference/rest/v1; of an insert that part which our requests
# make use of: a new disk with labels, metadata, labels, an account, a subnetwork, an address.
# That the account may be used (iam.serviceAccounts.actAs) is granted on that account alone.
NEEDED: dict[Call, set[str]] = {
    ("InstancesClient", "insert_unary"): {
        "compute.disks.create",
        "compute.disks.setLabels",
        "compute.images.useReadOnly",
        "compute.instances.create",
        "compute.instances.setLabels",
        "compute.instances.setMetadata",
        "compute.instances.setServiceAccount",
        "compute.subnetworks.use",
        "compute.subnetworks.useExternalIp",
    },
    ("InstancesClient", "delete_unary"): {"compute.instances.delete"},
    ("InstancesClient", "get"): {"compute.instances.get"},
    ("InstancesClient", "get_serial_port_output"): {"compute.instances.getSerialPortOutput"},
    ("InstancesClient", "aggregated_list"): {"compute.instances.list"},
    ("ZoneOperationsClient", "get"): {"compute.zoneOperations.get"},
    ("GlobalOperationsClient", "aggregated_list"): {"compute.globalOperations.list"},
    ("ProjectsClient", "get"): {"compute.projects.get"},
    ("ZonesClient", "list"): {"compute.zones.list"},
    ("RegionsClient", "get"): {"compute.regions.get"},
    ("MachineTypesClient", "get"): {"compute.machineTypes.get"},
    ("ImagesClient", "get"): {"compute.images.get"},
    ("ImagesClient", "get_from_family"): {"compute.images.getFromFamily"},
    ("AdviceClient", "capacity"): {"compute.advice.capacity"},
}
PLAIN = "projects/test-project/global/images/ironcliw-worker-1"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> set[Call]:
    """What is asked of the API, by class and method of Google's client."""
    made: set[Call] = set()
    original = Session.call

    def call(self: Session, action: str, client: str, method: str, *rest: Any, **asked: Any) -> Any:
        made.add((client, method))
        return original(self, action, client, method, *rest, **asked)

    monkeypatch.setattr(Session, "call", call)
    return made


@pytest.fixture
def compute() -> Iterator[FakeCompute]:
    with FakeCompute(World()) as server:
        yield server


def exercises(client: ComputeClient, named: ComputeClient) -> dict[str, Callable[[], object]]:
    """Every public method, used in every way that makes another call."""
    request = new_request()
    return {
        # the second: what it does where a first try was not answered and the name is taken
        "insert": lambda: (client.insert(request), client._is_made(request)),
        "console": lambda: client.console(request.name, A, 100),
        "listing": lambda: client.listing("home"),
        "list_vms": lambda: client.list_vms("home"),
        "delete": lambda: client.delete(request.name, A),
        "preemptions": lambda: client.preemptions([A], datetime(2026, 1, 1, tzinfo=UTC)),
        "project": client.project,
        "zones": client.zones,
        "quotas": lambda: client.quotas("us-central1"),
        "offers": lambda: client.offers(A, "e2-highmem-4"),
        "describe_image": lambda: (client.describe_image(), named.describe_image()),
        "capacity": lambda: client.capacity([A]),
    }


def public_methods() -> set[str]:
    members = inspect.getmembers(ComputeClient, inspect.isfunction)
    return {name for name, _ in members if not name.startswith("_")}


def test_the_role_covers_what_is_called_and_no_more(calls: set[Call], compute: FakeCompute) -> None:
    clients = [ComputeClient(compute.cloud(**change)) for change in ({}, {"image": PLAIN})]
    used = exercises(*clients)
    assert set(used) == public_methods(), "exercise each method, so that its calls are seen"
    for use in used.values():
        use()
    assert calls == set(NEEDED), "say in NEEDED what the call needs, and put it into iam.tf"

    role = read_blocks()[("resource", "google_project_iam_custom_role", "head")]
    assert set(role["permissions"]) == set().union(*NEEDED.values())
    assert role["permissions"] == sorted(role["permissions"])


def test_no_client_is_used_beside_those() -> None:
    folder = Path(cluster.gce.__file__).parents[1]
    named = {
        name
        for path in folder.rglob("*.py")
        if "testing" not in path.parts
        for name in re.findall(r'"(\w+Client)"', path.read_text(encoding="utf-8"))
    }
    assert named <= {client for client, _ in NEEDED} | {"ComputeClient"}
    assert len(named) > 5
