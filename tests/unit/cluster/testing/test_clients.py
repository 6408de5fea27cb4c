"""The real google-cloud-compute clients against the fake, over HTTP."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import google.auth.exceptions
import httpx
import pytest
from google.api_core import exceptions
from google.api_core.retry import Retry
from google.cloud import compute_v1

from cluster.testing.catalogue import Catalogue
from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import (
    ApiStorm,
    ClockSkew,
    Denied,
    LostReply,
    QuotaExceeded,
    RateLimited,
    RejectedField,
    Stockout,
)
from cluster.testing.world import World

from .conftest import ZONE, Clients

Body = Callable[..., dict[str, Any]]
PLACE = {"project": "test-project", "zone": ZONE}
OTHER = "us-central1-b"


class TestWrites:
    def test_an_insert_gives_an_operation_and_later_a_vm(
        self, clients: Clients, insert: Any
    ) -> None:
        operation = insert(labels={"ironcliw-cluster": "home"})
        assert operation.status == compute_v1.Operation.Status.DONE
        assert not operation.error.errors
        vm = clients.instances.get(**PLACE, instance="vm-1")
        assert (vm.status, dict(vm.labels)) == ("RUNNING", {"ironcliw-cluster": "home"})
        assert vm.scheduling.preemptible and not vm.scheduling.automatic_restart
        assert vm.disks[0].disk_size_gb == 50
        assert vm.network_interfaces[0].network_i_p == "10.128.0.2"
        created = datetime.fromisoformat(vm.creation_timestamp)
        started = datetime.fromisoformat(vm.last_start_timestamp)
        assert created == datetime(2026, 1, 15, 12, tzinfo=UTC)
        assert (started - created).total_seconds() == pytest.approx(0.2, abs=0.001)

    def test_the_reply_of_an_insert_is_pending(
        self, clients: Clients, body: Body, fake: FakeCompute
    ) -> None:
        resource = compute_v1.Instance.from_json(json.dumps(body()))
        operation = clients.instances.insert_unary(**PLACE, instance_resource=resource)
        assert operation.status == compute_v1.Operation.Status.PENDING
        assert not operation.end_time
        assert fake.count("POST", "*/instances") == 1

    def test_an_external_address_comes_where_asked(self, clients: Clients, insert: Any) -> None:
        interface = {"network": "global/networks/default", "accessConfigs": [{"name": "x"}]}
        insert(networkInterfaces=[interface])
        vm = clients.instances.get(**PLACE, instance="vm-1")
        assert vm.network_interfaces[0].access_configs[0].nat_i_p == "203.0.113.1"

    def test_a_request_sent_twice_makes_one_vm(
        self, clients: Clients, insert: Any, fake: FakeCompute
    ) -> None:
        number = str(uuid.uuid4())
        assert insert(request_id=number).name == insert(request_id=number).name
        with pytest.raises(exceptions.Conflict, match="already exists"):
            insert(request_id=str(uuid.uuid4()))
        assert fake.count("POST", "*/instances", requestId=number) == 2

    def test_a_delete_ends_it(self, clients: Clients, insert: Any) -> None:
        insert()
        operation = clients.instances.delete_unary(**PLACE, instance="vm-1")
        assert clients.instances.get(**PLACE, instance="vm-1").status == "STOPPING"
        clients.operations.wait(**PLACE, operation=operation.name)
        with pytest.raises(exceptions.NotFound, match="instances/vm-1' was not found"):
            clients.instances.get(**PLACE, instance="vm-1")
        with pytest.raises(exceptions.NotFound, match="instances/vm-1' was not found"):
            clients.instances.delete_unary(**PLACE, instance="vm-1")

    def test_labels_change_with_the_present_fingerprint_only(
        self, clients: Clients, insert: Any
    ) -> None:
        insert(labels={"a": "1"})
        first = clients.instances.get(**PLACE, instance="vm-1").label_fingerprint

        def change(labels: dict[str, str], fingerprint: str) -> None:
            clients.instances.set_labels_unary(
                **PLACE,
                instance="vm-1",
                instances_set_labels_request_resource=compute_v1.InstancesSetLabelsRequest(
                    labels=labels, label_fingerprint=fingerprint
                ),
            )

        change({"a": "2"}, first)
        with pytest.raises(exceptions.PreconditionFailed, match="fingerprint"):
            change({"a": "3"}, first)
        vm = clients.instances.get(**PLACE, instance="vm-1")
        assert dict(vm.labels) == {"a": "2"}
        with pytest.raises(exceptions.BadRequest, match="'A'='3' violates"):
            change({"A": "3"}, vm.label_fingerprint)

    def test_metadata_changes_in_the_same_way(self, clients: Clients, insert: Any) -> None:
        insert(metadata={"items": [{"key": "a", "value": "1"}]})
        first = clients.instances.get(**PLACE, instance="vm-1").metadata
        changed = compute_v1.Metadata(
            fingerprint=first.fingerprint, items=[compute_v1.Items(key="a", value="2")]
        )
        for attempt in range(2):
            try:
                clients.instances.set_metadata_unary(
                    **PLACE, instance="vm-1", metadata_resource=changed
                )
            except exceptions.PreconditionFailed:
                assert attempt == 1
        metadata = clients.instances.get(**PLACE, instance="vm-1").metadata
        assert metadata.items == [compute_v1.Items(key="a", value="2")]

    def test_a_maintenance_event_preempts(self, clients: Clients, insert: Any) -> None:
        insert()
        clients.instances.simulate_maintenance_event_unary(**PLACE, instance="vm-1")
        assert clients.instances.get(**PLACE, instance="vm-1").status == "STOPPING"

    def test_a_stop_keeps_the_vm(self, clients: Clients, insert: Any) -> None:
        insert()
        operation = clients.instances.stop_unary(**PLACE, instance="vm-1")
        clients.operations.wait(**PLACE, operation=operation.name)
        vm = clients.instances.get(**PLACE, instance="vm-1")
        assert vm.status == "TERMINATED"
        assert vm.last_stop_timestamp


class TestLateErrors:
    def test_a_stockout(self, insert: Any, fake: FakeCompute) -> None:
        fake.world.add(Stockout(zone=ZONE))
        operation = insert()
        assert operation.http_error_status_code == 503
        error = operation.error.errors[0]
        assert error.code == "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"
        info = error.error_details[0].error_info
        assert (info.reason, info.domain) == ("resource_availability", "compute.googleapis.com")
        assert info.metadatas["zonesAvailable"] == "us-central1-b,us-central1-c,us-central1-f"

    def test_nothing_shows_before_the_end(
        self, clients: Clients, body: Body, fake: FakeCompute
    ) -> None:
        fake.world.add(Stockout())
        resource = compute_v1.Instance.from_json(json.dumps(body()))
        operation = clients.instances.insert_unary(**PLACE, instance_resource=resource)
        found = clients.operations.get(**PLACE, operation=operation.name)
        for each in (operation, found):
            assert each.status != compute_v1.Operation.Status.DONE
            assert (list(each.error.errors), each.http_error_status_code) == ([], 0)

    def test_a_stockout_without_a_hint(self, insert: Any, fake: FakeCompute) -> None:
        fake.world.add(Stockout(zone=ZONE, hint=()))
        error = insert().error.errors[0]
        assert (error.code, list(error.error_details)) == ("ZONE_RESOURCE_POOL_EXHAUSTED", [])

    def test_a_quota(self, insert: Any, fake: FakeCompute) -> None:
        fake.world.add(QuotaExceeded())
        operation = insert()
        assert operation.http_error_status_code == 403
        info = operation.error.errors[0].error_details[0].quota_info
        assert (info.metric_name, info.limit, dict(info.dimensions)) == (
            "compute.googleapis.com/preemptible_cpus",
            0.0,
            {"region": "us-central1"},
        )

    def test_a_rate(self, insert: Any, fake: FakeCompute) -> None:
        fake.world.add(RateLimited(late=True))
        assert insert().error.errors[0].code == "RESOURCE_OPERATION_RATE_EXCEEDED"


class TestRefusals:
    def test_a_rate(self, clients: Clients, insert: Any, fake: FakeCompute) -> None:
        fake.world.add(RateLimited(times=1))
        with pytest.raises(exceptions.Forbidden, match="Queries per minute") as caught:
            insert()
        assert caught.value.errors[0]["reason"] == "rateLimitExceeded"
        assert insert("vm-2").status == compute_v1.Operation.Status.DONE

    def test_a_field_that_the_project_may_not_use(self, insert: Any, fake: FakeCompute) -> None:
        fake.world.add(RejectedField())
        insert("vm-1")
        with pytest.raises(exceptions.BadRequest, match=r"scheduling\.preemptionNoticeDuration"):
            insert("vm-2", scheduling={"preemptionNoticeDuration": {"seconds": "120"}})

    def test_an_unknown_zone_project_and_type(self, clients: Clients, insert: Any) -> None:
        with pytest.raises(exceptions.BadRequest, match="Unknown zone"):
            insert(zone="us-central9-z")
        with pytest.raises(exceptions.NotFound, match="projects/nobody' was not found"):
            clients.instances.list(project="nobody", zone=ZONE)
        with pytest.raises(exceptions.NotFound, match="machineTypes/e9-huge-4' was not found"):
            clients.of("MachineTypesClient").get(**PLACE, machine_type="e9-huge-4")

    def test_an_account_that_may_not(self, clients: Clients, fake: FakeCompute) -> None:
        fake.world.add(Denied(times=1))
        with pytest.raises(exceptions.Forbidden, match=r"403 GET.*Required 'compute\."):
            clients.instances.get(**PLACE, instance="vm-1")

    def test_credentials_that_have_expired(self, clients: Clients, fake: FakeCompute) -> None:
        fake.world.add(Denied(status=401))
        # the client wants another token at once, and there is none
        with pytest.raises(google.auth.exceptions.InvalidOperation, match="cannot be refreshed"):
            clients.instances.get(**PLACE, instance="vm-1")

    def test_a_token_where_one_is_wanted(self) -> None:
        with FakeCompute(token="good") as fake, httpx.Client(trust_env=False) as client:
            url = f"{fake.url}/compute/v1/projects/test-project"
            answers = [
                client.get(url, headers={"Authorization": header} if header else {})
                for header in ("", "Bearer bad", "Bearer good")
            ]
        assert [answer.status_code for answer in answers] == [401, 401, 200]

    def test_what_the_fake_has_not_it_says(self, fake: FakeCompute) -> None:
        with httpx.Client(base_url=fake.url, trust_env=False) as client:
            answer = client.put("/compute/v1/projects/test-project/zones")
            broken = client.post(
                f"/compute/v1/projects/test-project/zones/{ZONE}/instances", content=b"{"
            )
        assert "has no PUT /compute" in answer.json()["error"]["message"]
        assert broken.json()["error"]["code"] == 400


class TestWeather:
    def test_a_read_is_retried_through_a_storm(self, clients: Clients, fake: FakeCompute) -> None:
        fake.world.add(ApiStorm(times=2))
        patient = Retry(
            predicate=lambda error: isinstance(error, exceptions.ServiceUnavailable),
            initial=0.01,
            timeout=5,
        )
        request = compute_v1.GetProjectRequest(project="test-project")
        project = clients.of("ProjectsClient").get(request, retry=patient)
        assert project.name == "test-project"
        assert fake.count("GET") == 3

    def test_a_storm_ends(self, fake: FakeCompute) -> None:
        fake.world.add(ApiStorm(status=502, seconds=60))
        url = f"{fake.url}/compute/v1/projects/test-project"
        with httpx.Client(trust_env=False) as client:
            assert client.get(url).status_code == 502
            fake.world.clock.sleep(60)
            assert client.get(url).status_code == 200

    def test_a_lost_reply_leaves_the_vm(
        self, clients: Clients, insert: Any, fake: FakeCompute
    ) -> None:
        fake.world.add(LostReply(times=1))
        number = str(uuid.uuid4())
        with pytest.raises(Exception, match=r"Remote end closed|Connection aborted"):
            insert(request_id=number)
        assert list(fake.world.instances) == [(ZONE, "vm-1")]
        assert insert(request_id=number).status == compute_v1.Operation.Status.DONE

    def test_the_date_header_is_googles_clock(self) -> None:
        world = World(clock=ManualClock(), faults=[ClockSkew(by=7200)])
        with FakeCompute(world) as fake, httpx.Client(trust_env=False) as client:
            answer = client.get(f"{fake.url}/compute/v1/projects/test-project")
        date = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        assert date - world.now == pytest.approx(7200, abs=60)


class TestWhatIsOffered:
    def test_zones_regions_types_and_images(self, clients: Clients, insert: Any) -> None:
        insert()
        zones = clients.of("ZonesClient").list(project="test-project")
        assert {zone.name: zone.status for zone in zones}[ZONE] == "UP"
        region = clients.of("RegionsClient").get(project="test-project", region="us-central1")
        quotas = {quota.metric: (quota.limit, quota.usage) for quota in region.quotas}
        assert quotas["PREEMPTIBLE_CPUS"] == (72.0, 4.0)
        assert quotas["DISKS_TOTAL_GB"] == (4096.0, 50.0)
        kind = clients.of("MachineTypesClient").get(**PLACE, machine_type="e2-highmem-4")
        assert (kind.guest_cpus, kind.memory_mb) == (4, 32768)
        images = clients.of("ImagesClient")
        newest = images.get_from_family(project="debian-cloud", family="debian-12")
        assert newest.name == "debian-12-bookworm-v20260110"
        assert images.get(project="debian-cloud", image=newest.name).status == "READY"
        with pytest.raises(exceptions.NotFound, match="family/mine"):
            images.get_from_family(project="test-project", family="mine")

    def test_advice_where_it_is_allowed(self) -> None:
        chances = {ZONE: 0.2, OTHER: 0.9}
        for known, expected in ((None, None), (chances, 0.9)):
            world = World(clock=ManualClock(), catalogue=Catalogue(obtainability=known))
            with FakeCompute(world) as fake:
                client = Clients(fake).of("AdviceClient")
                body = compute_v1.CapacityAdviceRequest(size=1)
                try:
                    answer = client.capacity(
                        project="test-project",
                        region="us-central1",
                        capacity_advice_request_resource=body,
                    )
                except exceptions.Forbidden:
                    assert expected is None
                else:
                    scores = answer.recommendations[0].scores
                    assert scores.obtainability == pytest.approx(expected)
