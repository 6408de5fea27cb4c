"""What can be had, as the API says it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from cluster.gce.client import ComputeClient, GceError
from cluster.gce.project import Quota, Zone, image_parts
from cluster.machines import MachineType
from cluster.testing.catalogue import Catalogue
from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import ApiStorm, Denied
from cluster.testing.world import World

A, B = "us-central1-a", "us-central1-b"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def compute(clock: ManualClock) -> Iterator[FakeCompute]:
    with FakeCompute(World(clock=clock)) as server:
        yield server


def new_client(compute: FakeCompute, clock: ManualClock, **settings: object) -> ComputeClient:
    return ComputeClient(compute.cloud(**settings), clock=clock, sleep=clock.sleep)


@pytest.fixture
def client(compute: FakeCompute, clock: ManualClock) -> ComputeClient:
    return new_client(compute, clock)


def test_project(client: ComputeClient) -> None:
    project = client.project()
    assert project.name == "test-project"
    assert project.default_service_account.endswith("@developer.gserviceaccount.com")


def test_project_that_does_not_exist(compute: FakeCompute, clock: ManualClock) -> None:
    client = new_client(compute, clock, project="no-project")
    with pytest.raises(GceError, match="no-project") as raised:
        client.project()
    assert raised.value.kind in ("missing", "auth")


def test_zones(client: ComputeClient) -> None:
    assert client.zones()[0] == Zone(A, "us-central1", is_up=True)


def test_quotas(client: ComputeClient) -> None:
    assert client.quotas("us-central1")["PREEMPTIBLE_CPUS"] == Quota(limit=72, usage=0)
    assert Quota(limit=8, usage=10).free == 0
    assert Quota(limit=8, usage=2).free == 6


def test_machine_type_of_a_zone(client: ComputeClient) -> None:
    assert client.offers(A, "e2-highmem-4") == MachineType("e2-highmem-4", 4, 32)
    assert client.offers(A, "e2-highmem-5") is None


def test_question_that_is_refused_is_not_answered_no(
    client: ComputeClient, compute: FakeCompute
) -> None:
    compute.world.add(Denied(status=403))
    with pytest.raises(GceError, match="look for e2-highmem-4"):
        client.offers(A, "e2-highmem-4")


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("projects/debian-cloud/global/images/family/debian-12", "debian-12-bookworm-v20260110"),
        (
            "projects/debian-cloud/global/images/debian-12-bookworm-v20260101",
            "debian-12-bookworm-v20260101",
        ),
        ("global/images/family/ironcliw-worker", "ironcliw-worker-1"),
    ],
)
def test_image(compute: FakeCompute, clock: ManualClock, image: str, name: str) -> None:
    found = new_client(compute, clock, image=image).describe_image()
    assert (found.name, found.architecture, found.status) == (name, "X86_64", "READY")
    assert found.disk_gb > 0
    assert not found.is_deprecated


def test_image_that_does_not_exist(compute: FakeCompute, clock: ManualClock) -> None:
    client = new_client(compute, clock, image="global/images/none")
    with pytest.raises(GceError, match="global/images/none") as raised:
        client.describe_image()
    assert raised.value.kind == "missing"


@pytest.mark.parametrize("image", ["", "debian-12", "global/images/", "projects/p/global/images"])
def test_image_that_is_no_address(image: str) -> None:
    with pytest.raises(GceError, match="it must be"):
        image_parts(image)


def test_advice_by_zone(clock: ManualClock) -> None:
    catalogue = replace(Catalogue(), obtainability={A: 0.9, B: 0.2})
    with FakeCompute(World(clock=clock, catalogue=catalogue)) as compute:
        assert new_client(compute, clock).capacity([A, B]) == {A: 0.9, B: 0.2}


def test_advice_that_is_refused_is_not_asked_for_again_within_the_hour(
    client: ComputeClient, compute: FakeCompute, clock: ManualClock
) -> None:
    assert client.capacity([A, B]) == {}
    clock.advance(3599)
    assert client.capacity([A, B]) == {}
    assert compute.count("POST", "*/advice/capacity") == 1
    clock.advance(1)
    client.capacity([A, B])
    assert compute.count("POST", "*/advice/capacity") == 2


def test_advice_that_a_storm_swallowed_is_asked_for_again_soon(clock: ManualClock) -> None:
    catalogue = replace(Catalogue(), obtainability={A: 0.9, B: 0.2})
    with FakeCompute(World(clock=clock, catalogue=catalogue)) as compute:
        client = new_client(compute, clock)
        compute.world.add(ApiStorm(seconds=30))
        assert client.capacity([A, B]) == {}
        clock.advance(60)
        assert client.capacity([A, B]) == {A: 0.9, B: 0.2}
