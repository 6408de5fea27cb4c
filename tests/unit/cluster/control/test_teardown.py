"""The end of all machines, and how the cloud part is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from cluster.control.status import cloud_status
from cluster.control.teardown import delete_all, delete_machines
from cluster.launch.launcher import LaunchError
from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import Stockout
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
