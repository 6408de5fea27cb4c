"""The end of all machines, and how the cloud part is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from cluster.control.status import cloud_status
from cluster.control.teardown import LATE_SECONDS, delete_all, delete_machines
from cluster.gce.errors import GceError
from cluster.launch.launcher import LaunchError
from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import ApiStorm, Denied, Stockout
from cluster.testing.instances import Timings
from cluster.testing.world import World
from ironcliw.errors import ClusterError
from ironcliw.settings import Settings, load_settings
from tests.unit.cluster.clouds import ORDER, A, Cloud, open_store

CLUSTER_NAME = "ironcliw"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    clock = ManualClock()
    store = open_store(tmp_path)
    with FakeCompute(World(clock=clock, timings=Timings(stopping=20.0))) as compute:
        yield Cloud(compute, clock, store)
    store.close()


def settings_of(cloud: Cloud) -> Settings:
    url = SecretStr(f"sqlite:///{cloud.store.name}")
    store = load_settings().store.model_copy(update={"url": url})
    changes = {"cloud": cloud.settings, "budget": cloud.budget, "store": store}
    return load_settings().model_copy(update=changes)


def test_all_machines_of_the_cluster_go_and_no_other(cloud: Cloud) -> None:
    launcher = cloud.launcher(cluster=CLUSTER_NAME)
    names = sorted(launcher.launch(ORDER).name for _ in range(2))
    other = cloud.launcher(cluster="office").launch(ORDER)
    found = delete_machines(cloud.client, CLUSTER_NAME, clock=cloud.clock, sleep=cloud.clock.sleep)
    assert sorted(found) == names
    cloud.clock.advance(30)
    assert cloud.client.list_vms(CLUSTER_NAME) == []
    assert [vm.name for vm in cloud.client.list_vms("office")] == [other.name]
    again = delete_machines(cloud.client, CLUSTER_NAME, clock=cloud.clock, sleep=cloud.clock.sleep)
    assert again == []


def test_one_that_comes_late_goes_too(cloud: Cloud) -> None:
    launcher = cloud.launcher(cluster=CLUSTER_NAME)
    first = launcher.launch(ORDER).name
    late: list[str] = []

    def sleep(seconds: float) -> None:
        if not late:
            late.append(launcher.launch(ORDER).name)
        cloud.clock.sleep(seconds)

    found = delete_machines(cloud.client, CLUSTER_NAME, clock=cloud.clock, sleep=sleep)
    assert found == [first, *late]


def test_one_that_does_not_go_is_named(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    name = cloud.launcher(cluster=CLUSTER_NAME).launch(ORDER).name
    monkeypatch.setattr(cloud.client, "delete", lambda *_: None)
    with pytest.raises(ClusterError, match=rf"{name} in {A} could not be deleted within 120 s"):
        delete_machines(cloud.client, CLUSTER_NAME, clock=cloud.clock, sleep=cloud.clock.sleep)


def end(cloud: Cloud) -> list[str]:
    """Deletes all machines, by the test's clock."""
    clock = cloud.clock
    return delete_machines(cloud.client, CLUSTER_NAME, clock=clock, sleep=clock.sleep)


def refuse(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, name: str, kind: str = "auth") -> None:
    """Have the deletion of one machine refused, always."""
    delete = cloud.client.delete

    def fail(asked: str, zone: str) -> None:
        if asked == name:
            raise GceError(f"delete of {asked} failed: not allowed", kind=kind, code="NO")  # type: ignore[arg-type]
        delete(asked, zone)

    monkeypatch.setattr(cloud.client, "delete", fail)


class TestErrors:
    def test_one_that_is_refused_does_not_save_the_others(
        self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        launcher = cloud.launcher(cluster=CLUSTER_NAME)
        # the list is sorted by name: the first of all is the one that fails
        kept, *others = sorted(launcher.launch(ORDER).name for _ in range(3))
        refuse(cloud, monkeypatch, kept)
        began = cloud.clock()
        words = rf"^{kept} in \S+ could not be deleted: delete of {kept} failed: not allowed; run "
        with pytest.raises(GceError, match=words) as caught:
            end(cloud)
        assert (caught.value.kind, caught.value.code) == ("auth", "NO")
        assert not any(name in caught.value.message for name in others)
        assert cloud.clock() - began < LATE_SECONDS + 5  # what is refused is not waited for
        cloud.clock.advance(30)
        assert [vm.name for vm in cloud.client.list_vms(CLUSTER_NAME)] == [kept]

    @pytest.mark.parametrize("verbs", [("GET",), ("DELETE",), ("GET", "DELETE")])
    def test_a_short_outage_is_waited_for(self, cloud: Cloud, verbs: tuple[str, ...]) -> None:
        launcher = cloud.launcher(cluster=CLUSTER_NAME)
        names = sorted(launcher.launch(ORDER).name for _ in range(2))
        cloud.compute.world.add(ApiStorm(seconds=60, verbs=verbs))
        assert sorted(end(cloud)) == names
        cloud.clock.advance(30)
        assert cloud.client.list_vms(CLUSTER_NAME) == []

    def test_too_many_calls_are_made_again(
        self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = cloud.launcher(cluster=CLUSTER_NAME).launch(ORDER).name
        delete, tries = cloud.client.delete, iter(range(3))

        def fail(asked: str, zone: str) -> None:
            if next(tries, None) is not None:
                raise GceError("too many", kind="rate", code="RATE")
            delete(asked, zone)

        monkeypatch.setattr(cloud.client, "delete", fail)
        assert end(cloud) == [name]

    def test_a_long_outage_names_what_is_left(self, cloud: Cloud) -> None:
        launcher = cloud.launcher(cluster=CLUSTER_NAME)
        names = sorted(launcher.launch(ORDER).name for _ in range(2))
        cloud.compute.world.add(ApiStorm(verbs=("DELETE",)))
        began = cloud.clock()
        named = ", ".join(rf"{name} in \S+" for name in names)
        words = rf"^{named} could not be deleted: delete of {names[0]} in .*; run `ironcliw down`"
        with pytest.raises(GceError, match=words) as caught:
            end(cloud)
        assert caught.value.kind == "unavailable"
        assert 120 < cloud.clock() - began < 170  # the last round of both deletions is ended

    def test_a_list_that_never_comes_is_said(self, cloud: Cloud) -> None:
        cloud.launcher(cluster=CLUSTER_NAME).launch(ORDER)
        cloud.compute.world.add(ApiStorm(verbs=("GET",)))
        words = "^the machines of cluster ironcliw could not be deleted: list of the machines of"
        with pytest.raises(GceError, match=words):
            end(cloud)

    def test_a_list_that_is_refused_is_not_asked_for_again(self, cloud: Cloud) -> None:
        cloud.compute.world.add(Denied(status=403))
        began = cloud.clock()
        with pytest.raises(GceError, match="list of the machines") as caught:
            end(cloud)
        assert (caught.value.kind, cloud.clock()) == ("auth", began)

    def test_what_was_deleted_is_told_all_the_same(
        self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        launcher = cloud.launcher(cluster=CLUSTER_NAME)
        kept, other = (launcher.launch(ORDER).name for _ in range(2))
        refuse(cloud, monkeypatch, kept)
        monkeypatch.setattr("cluster.control.teardown.LATE_SECONDS", 0.0)
        monkeypatch.setattr("cluster.control.teardown._POLL_SECONDS", 0.0)
        monkeypatch.setattr("cluster.control.teardown.ComputeClient", lambda _: cloud.client)
        with pytest.raises(GceError, match=f"{kept} in "):
            delete_all(settings_of(cloud))
        assert cloud.told("deleted") == [f"machine {other} is deleted by `ironcliw down`"]


def test_the_end_is_told_and_counted(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    name = cloud.launcher(cluster=CLUSTER_NAME).launch(ORDER).name
    monkeypatch.setattr("cluster.control.teardown._POLL_SECONDS", 0.0)
    monkeypatch.setattr("cluster.control.teardown.ComputeClient", lambda _: cloud.client)
    delete_all(settings_of(cloud))
    assert cloud.told("deleted") == [f"machine {name} is deleted by `ironcliw down`"]
    (row,) = cloud.ledger.intervals(cloud.now())
    assert row.created_at is not None


def test_without_a_project_there_is_nothing_to_end() -> None:
    delete_all(load_settings())


def test_the_status_says_what_ray_does_not(cloud: Cloud) -> None:
    launcher = cloud.launcher(cluster=CLUSTER_NAME)
    name = launcher.launch(ORDER).name
    cloud.compute.world.add(Stockout())
    with pytest.raises(LaunchError, match="no zone"):
        launcher.launch(ORDER)
    status = cloud_status(settings_of(cloud), now=cloud.now())
    text = "\n".join(status.lines())
    assert "controller: has not reported yet" in text
    assert f"worker {name} ({A}): by the ledger" in text
    assert "month 2026-01: 0.00 USD spent, 2." in text
    assert "cap 200.00" in text
    assert f"zone {A} rests: no capacity (ZONE_RESOURCE_POOL_EXHAUSTED" in text
    assert len(re.findall(r"not launched: .* launch_failed: no zone gives a machine", text)) == 1
    document = json.loads(json.dumps(status.to_json()))
    assert document["machines"] == {name: A}
    assert document["events"][0]["kind"] == "launch_failed"
