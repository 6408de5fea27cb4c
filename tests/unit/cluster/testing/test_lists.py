"""Lists, by the real clients: zones, filters, pages."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from google.api_core import exceptions
from google.cloud import compute_v1

from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import UnreachableZone

from .conftest import ZONE, Clients

OTHER = "us-central1-b"
PLACE = {"project": "test-project", "zone": ZONE}


def names(clients: Clients, **query: Any) -> dict[str, list[str]]:
    """The names of an aggregated list, by zone."""
    request = compute_v1.AggregatedListInstancesRequest(project="test-project", **query)
    found: dict[str, list[str]] = {}
    for scope, page in clients.instances.aggregated_list(request):
        found.setdefault(scope.removeprefix("zones/"), []).extend(
            instance.name for instance in page.instances
        )
    return found


class TestLists:
    def test_aggregated_has_every_zone(self, clients: Clients, insert: Any) -> None:
        insert("vm-1")
        insert("vm-2", OTHER)
        found = names(clients)
        assert found == {
            ZONE: ["vm-1"],
            OTHER: ["vm-2"],
            "us-central1-c": [],
            "us-central1-f": [],
        }

    def test_filters_by_label(self, clients: Clients, insert: Any) -> None:
        insert("vm-1", labels={"ironcliw-cluster": "home"})
        insert("vm-2", labels={"ironcliw-cluster": "work"})
        found = names(clients, filter='labels.ironcliw-cluster="home" AND status=RUNNING')
        assert found[ZONE] == ["vm-1"]

    @pytest.mark.parametrize("size", [1, 2, 3, 500])
    def test_pages(self, clients: Clients, insert: Any, fake: FakeCompute, size: int) -> None:
        for number in range(3):
            insert(f"vm-{number}")
        insert("vm-3", OTHER)
        found = names(clients, max_results=size)
        assert (found[ZONE], found[OTHER]) == (["vm-0", "vm-1", "vm-2"], ["vm-3"])
        listed = clients.instances.list(compute_v1.ListInstancesRequest(**PLACE, max_results=size))
        assert [vm.name for vm in listed] == ["vm-0", "vm-1", "vm-2"]
        assert fake.count("GET", "*/aggregated/*") == -(-4 // size)

    def test_a_page_can_be_shorter_than_asked(
        self, clients: Clients, insert: Any, fake: FakeCompute
    ) -> None:
        fake.world.largest_page = 1
        insert("vm-1")
        insert("vm-2", OTHER)
        assert names(clients, max_results=500)[OTHER] == ["vm-2"]
        assert fake.count("GET", "*/aggregated/instances") == 2

    def test_a_vm_that_goes_between_pages_hides_no_other(
        self, clients: Clients, insert: Any, fake: FakeCompute
    ) -> None:
        for number in range(4):
            insert(f"vm-{number}")
        pages = clients.instances.list(
            compute_v1.ListInstancesRequest(**PLACE, max_results=2)
        ).pages
        first = [vm.name for vm in next(pages).items]
        clients.instances.delete_unary(**PLACE, instance="vm-0")
        fake.world.clock.sleep(10)
        assert first + [vm.name for vm in next(pages).items] == [f"vm-{n}" for n in range(4)]

    @pytest.mark.parametrize("query", [{"maxResults": "501"}, {"pageToken": "x"}])
    def test_a_page_that_cannot_be(self, fake: FakeCompute, query: dict[str, str]) -> None:
        url = f"{fake.url}/compute/v1/projects/test-project/aggregated/instances"
        with httpx.Client(trust_env=False) as client:
            assert client.get(url, params=query).status_code == 400

    def test_a_zone_that_does_not_answer(
        self, clients: Clients, insert: Any, fake: FakeCompute
    ) -> None:
        insert()
        fake.world.add(UnreachableZone(zone=ZONE, times=1))
        fake.world.add(UnreachableZone(zone=ZONE, partial=True))
        request = compute_v1.AggregatedListInstancesRequest(project="test-project")
        with pytest.raises(exceptions.ServiceUnavailable, match="503"):
            clients.instances.aggregated_list(request, retry=None)
        scopes = dict(clients.instances.aggregated_list(request))
        assert scopes[f"zones/{ZONE}"].warning.code == "UNREACHABLE"
        assert not scopes[f"zones/{ZONE}"].instances

    def test_preemptions_are_operations(
        self, clients: Clients, insert: Any, fake: FakeCompute
    ) -> None:
        insert("vm-1")
        insert("vm-2", OTHER)
        vm = fake.world.named("vm-2")
        assert vm is not None
        fake.world.preempt(vm)
        text = 'operationType="compute.instances.preempted"'
        here = clients.operations.list(
            compute_v1.ListZoneOperationsRequest(project="test-project", zone=OTHER, filter=text)
        )
        assert [(each.user, each.target_link.rpartition("/")[2]) for each in here] == [
            ("system", "vm-2")
        ]
        everywhere = clients.of("GlobalOperationsClient").aggregated_list(
            compute_v1.AggregatedListGlobalOperationsRequest(project="test-project", filter=text)
        )
        assert sum(len(scope.operations) for _, scope in everywhere) == 1
