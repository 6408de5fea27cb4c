"""What Google accepts as a new VM, what it fills in, and how a launch fails by a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cluster.testing.api_errors import ApiError
from cluster.testing.catalogue import Catalogue
from cluster.testing.faults import ClockSkew, Hook, OperationFails, SlowBoot, Stockout

from .conftest import ZONE

Body = Callable[..., dict[str, Any]]


class TestInsert:
    def test_spot_fills_in_what_google_does(self, cloud: Any, body: Body) -> None:
        cloud.insert(body(scheduling={"instanceTerminationAction": "STOP"}))
        assert cloud.world.named("vm-1").body["scheduling"] == {
            "provisioningModel": "SPOT",
            "preemptible": True,
            "automaticRestart": False,
            "onHostMaintenance": "TERMINATE",
            "instanceTerminationAction": "STOP",
        }

    def test_by_default_a_preempted_vm_is_only_stopped(self, cloud: Any, body: Body) -> None:
        asked = body()
        del asked["scheduling"]["instanceTerminationAction"]
        cloud.insert(asked)
        assert not cloud.world.named("vm-1").deletes_itself

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"name": "VM_1"}, "regex"),
            ({"name": "vm-"}, "regex"),
            ({"name": "v" * 64}, "regex"),
            ({"labels": {"Owner": "x"}}, "Label 'Owner'='x' violates"),
            ({"labels": {"owner": "X"}}, "Label 'owner'='X' violates"),
            ({"machineType": "e2-highmem-4"}, "URL is malformed"),
            ({"machineType": f"zones/{ZONE}/machineTypes/e9-huge-4"}, "'e9-huge-4' does not exist"),
            ({"machineType": "zones/us-central1-b/machineTypes/e2-highmem-4"}, "does not exist in"),
            ({"disks": []}, "must be a boot disk"),
            ({"networkInterfaces": []}, "At least one network"),
            ({"networkInterfaces": [{"network": "global/networks/x"}]}, "cannot be found"),
            ({"scheduling": {"maxRunDuration": {"seconds": "29"}}}, "from 30 to"),
            ({"scheduling": {"preemptionNoticeDuration": {"seconds": "60"}}}, "one of"),
            ({"scheduling": {"automaticRestart": True}}, "automaticRestart be false"),
            ({"metadata": {"items": [{"key": "a b", "value": ""}]}}, "other characters"),
            ({"metadata": {"items": [{"key": "a", "value": "x" * 262145}]}}, "size exceeded"),
            ({"metadata": {"items": [{"key": "a"}, {"key": "a"}]}}, "unique"),
        ],
    )
    def test_what_breaks_a_rule_is_refused(
        self, cloud: Any, body: Body, change: dict[str, Any], match: str
    ) -> None:
        with pytest.raises(ApiError, match=f"^400 invalid.*{match}"):
            cloud.insert(body(**change))
        assert not cloud.world.instances

    def test_an_unknown_image_is_not_found(self, cloud: Any, body: Body) -> None:
        asked = body()
        asked["disks"][0]["initializeParams"]["sourceImage"] = "global/images/family/mine"
        with pytest.raises(ApiError, match=r"404 notFound.*test-project/global/images/family/mine"):
            cloud.insert(asked)

    def test_a_disk_smaller_than_the_image_is_refused(self, cloud: Any, body: Body) -> None:
        asked = body()
        asked["disks"][0]["initializeParams"]["diskSizeGb"] = "5"
        with pytest.raises(ApiError, match="smaller than the image size"):
            cloud.insert(asked)

    def test_a_name_that_is_taken(self, cloud: Any, body: Body) -> None:
        cloud.insert(body())
        with pytest.raises(ApiError, match="409 alreadyExists"):
            cloud.insert(body())

    def test_a_name_that_is_stopping_is_refused_late(self, cloud: Any, body: Body) -> None:
        cloud.insert(body())
        cloud.plane.end(ZONE, "vm-1", None, delete=True)
        assert cloud.insert(body()).error.code == "RESOURCE_NOT_READY"

    def test_the_same_request_gives_the_same_operation(self, cloud: Any, body: Body) -> None:
        number = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
        first = cloud.insert(body(), request_id=number)
        assert cloud.insert(body(), request_id=number) is first
        assert len(cloud.world.instances) == 1

    @pytest.mark.parametrize("number", ["7", "00000000-0000-0000-0000-000000000000"])
    def test_a_request_id_must_be_a_uuid(self, cloud: Any, body: Body, number: str) -> None:
        with pytest.raises(ApiError, match="requestId"):
            cloud.insert(body(), request_id=number)

    def test_the_quota_counts_what_is_there(self, make_cloud: Any, body: Body) -> None:
        quotas = {"CPUS": 2.0, "PREEMPTIBLE_CPUS": 8.0}
        cloud = make_cloud(catalogue=Catalogue(quotas=quotas))
        operations = [cloud.insert(body(f"vm-{number}")) for number in range(3)]
        codes = [operation.error and operation.error.code for operation in operations]
        assert codes == [None, None, "QUOTA_EXCEEDED"]
        cloud.plane.end(ZONE, "vm-0", None, delete=True)
        cloud.advance(10)
        assert cloud.insert(body("vm-4")).error is None

    def test_without_a_preemptible_quota_the_ordinary_one_counts(
        self, make_cloud: Any, body: Body
    ) -> None:
        quotas = {"CPUS": 2.0, "PREEMPTIBLE_CPUS": 0.0}
        cloud = make_cloud(catalogue=Catalogue(quotas=quotas))
        error = cloud.insert(body()).error
        assert "'CPUS' exceeded.  Limit: 2.0" in error.message


class TestFaults:
    def test_a_stockout_names_the_zones_that_have_room(self, make_cloud: Any, body: Body) -> None:
        cloud = make_cloud(faults=[Stockout(zone="*-a"), Stockout(zone="*-f")])
        operation = cloud.insert(body())
        assert operation.status(cloud.world.now) != "DONE"
        info = operation.error.body()["errorDetails"][0]["errorInfo"]
        assert info["metadatas"]["zonesAvailable"] == "us-central1-b,us-central1-c"
        assert not cloud.world.instances

    def test_a_hint_never_names_the_zone_itself(self, make_cloud: Any, body: Body) -> None:
        cloud = make_cloud(faults=[Stockout(zone=ZONE, times=1)])
        error = cloud.insert(body()).error
        hint = error.body()["errorDetails"][0]["errorInfo"]["metadatas"]["zonesAvailable"]
        assert hint == "us-central1-b,us-central1-c,us-central1-f"

    def test_it_ends_when_its_time_is_over(self, make_cloud: Any, body: Body) -> None:
        cloud = make_cloud(faults=[Stockout(zone=ZONE, at=10, seconds=60)])
        codes = []
        for number in range(4):
            error = cloud.insert(body(f"vm-{number}")).error
            codes.append(error and error.code[:13])
            cloud.advance(25)
        assert codes == [None, "ZONE_RESOURCE", "ZONE_RESOURCE", None]

    def test_a_slow_boot_keeps_the_guest_waiting(self, make_cloud: Any, body: Body) -> None:
        cloud = make_cloud(faults=[SlowBoot(extra=60, times=1)])
        cloud.insert(body())
        cloud.insert(body("vm-2"))
        cloud.advance(30)
        slow, quick = cloud.world.named("vm-1"), cloud.world.named("vm-2")
        assert cloud.status("vm-1") == "RUNNING"
        assert [vm.is_powered(cloud.world.now) for vm in (slow, quick)] == [False, True]

    def test_a_slow_machine_keeps_the_operation_waiting(self, make_cloud: Any, body: Body) -> None:
        cloud = make_cloud(faults=[SlowBoot(extra=60, stage="provisioning")])
        operation = cloud.insert(body())
        cloud.advance(30)
        assert cloud.status("vm-1") == "PROVISIONING"
        assert operation.status(cloud.world.now) == "RUNNING"

    def test_any_code_of_googles(self, make_cloud: Any, body: Body) -> None:
        cloud = make_cloud(faults=[OperationFails(code="INTERNAL_ERROR", status=500)])
        assert cloud.insert(body()).error.code == "INTERNAL_ERROR"

    @pytest.mark.parametrize(("step", "exists"), [("insert", False), ("created", True)])
    def test_a_hook_is_called_at_its_step(
        self, make_cloud: Any, body: Body, step: Any, exists: bool
    ) -> None:
        cloud = make_cloud(faults=[Hook(label="crash", when=step, count=2)])
        seen = []
        cloud.world.hooks["crash"] = lambda cause: seen.append(
            (cause.name, (ZONE, "vm-2") in cloud.world.instances)
        )
        cloud.insert(body("vm-1"))
        assert seen == []
        cloud.insert(body("vm-2"))
        assert seen == [("vm-2", exists)]

    def test_a_wrong_clock_shows_in_every_stamp(self, make_cloud: Any) -> None:
        right, wrong = make_cloud(), make_cloud(faults=[ClockSkew(by=-3600)])
        assert right.world.stamp(right.clock()) == "2026-01-15T05:00:00.000-07:00"
        assert wrong.world.stamp(wrong.clock()) == "2026-01-15T04:00:00.000-07:00"
