"""Machines that turned themselves off: deleted by the provider, where no controller runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.config import HEAD_INSTANCE_ID
from cluster.control.instructions import Delete
from cluster.control.snapshot import Snapshot
from cluster.control.state import ControllerState
from cluster.gce.client import ComputeClient
from cluster.machines import Vm, VmStatus
from cluster.stopped_machines import AGAIN_SECONDS, StoppedMachines
from cluster.testing.clocks import ManualClock
from cluster.testing.crashes import settings_for
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import ApiStorm
from cluster.testing.launching import launch, provider_of
from cluster.testing.world import World
from tests.unit.cluster.clouds import ORDER, A, Cloud, open_store
from tests.waiting import wait_for


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    store = open_store(tmp_path)
    clock = ManualClock()
    with FakeCompute(World(clock=clock)) as compute:
        yield Cloud(compute, clock, store)
    store.close()


def stopped(cloud: Cloud) -> Vm:
    """A machine that was launched and has turned itself off."""
    name = cloud.launcher().launch(ORDER).name
    cloud.clock.advance(1)
    instance = cloud.compute.world.named(name)
    assert instance is not None
    cloud.compute.world.power_off(instance)
    cloud.clock.advance(10)
    (vm,) = cloud.vms()
    assert vm.status is VmStatus.TERMINATED
    return vm


def sweeper(cloud: Cloud, start: Callable[[Callable[[], None]], None]) -> StoppedMachines:
    announcements = cloud.launcher().announcements
    return StoppedMachines(cloud.client, announcements, clock=cloud.clock, start=start)


def deletions(cloud: Cloud) -> int:
    return cloud.compute.count("DELETE", "*/instances/*")


def at_once(act: Callable[[], None]) -> None:
    act()


def test_plain_ray_leaves_no_disk_behind(tmp_path: Path) -> None:
    """Without a controller: the worker powers off when it is drained, and Ray asks for nothing."""
    clock = ManualClock(time.time())
    with FakeCompute(World(clock=clock)) as compute:
        settings = settings_for(compute, tmp_path)
        client = ComputeClient(settings.cloud, clock=clock, sleep=clock.sleep)
        provider = provider_of(settings, client=client)
        launch(provider, settings)
        clock.advance(1)
        (instance,) = compute.world.instances.values()
        compute.world.power_off(instance)
        clock.advance(10)
        assert provider.non_terminated_nodes({}) == [HEAD_INSTANCE_ID]
        wait_for(lambda: compute.count("DELETE", f"*/instances/{instance.name}") == 1)
        clock.advance(10)
        compute.world.step()
        assert not compute.world.instances


def test_it_is_deleted_once_and_told(cloud: Cloud) -> None:
    vm = stopped(cloud)
    machines = sweeper(cloud, at_once)
    for _ in range(3):
        machines.sweep([vm])
    assert deletions(cloud) == 1
    (message,) = cloud.told("reaped")
    assert message == f"machine {vm.name} in {A} is deleted: it has stopped, and its disk costs on"
    cloud.clock.advance(10)
    machines.sweep(cloud.vms())
    assert cloud.vms() == []


def test_the_listing_does_not_wait_for_it(cloud: Cloud) -> None:
    vm = stopped(cloud)
    begun: list[Callable[[], None]] = []
    sweeper(cloud, begun.append).sweep([vm])
    assert deletions(cloud) == 0
    begun[0]()
    assert deletions(cloud) == 1


def test_by_default_a_thread_does_it_that_nobody_waits_for(cloud: Cloud) -> None:
    vm = stopped(cloud)
    by: list[threading.Thread] = []

    class Slow:
        def delete(self, name: str, zone: str) -> None:
            by.append(threading.current_thread())

    StoppedMachines(Slow(), cloud.launcher().announcements).sweep([vm])
    wait_for(lambda: bool(by))
    assert by[0].daemon
    assert by[0] is not threading.main_thread()


def test_one_that_works_is_left_alone(cloud: Cloud) -> None:
    cloud.launcher().launch(ORDER)
    machines = sweeper(cloud, at_once)
    for _ in range(3):
        machines.sweep(cloud.vms())
        cloud.clock.advance(1)
    assert deletions(cloud) == 0


def test_a_failure_is_logged_and_tried_again(
    cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    vm = stopped(cloud)
    machines = sweeper(cloud, at_once)
    # longer than a patient delete, which is over when this clock has moved on
    cloud.compute.world.add(ApiStorm(verbs=("DELETE",), seconds=30))
    with caplog.at_level(logging.WARNING, "cluster.stopped_machines"):
        machines.sweep([vm])
    assert f"machine {vm.name} in {A} has stopped and could not be deleted" in caplog.text
    assert cloud.told("reaped") == []
    cloud.clock.advance(AGAIN_SECONDS / 4)
    tries = deletions(cloud)
    machines.sweep([vm])
    assert deletions(cloud) == tries
    cloud.clock.advance(AGAIN_SECONDS)
    machines.sweep([vm])
    assert deletions(cloud) == tries + 1
    assert len(cloud.told("reaped")) == 1


def test_beside_the_controller_it_does_no_harm(cloud: Cloud) -> None:
    vm = stopped(cloud)
    (order,) = ControllerState(300, 2).step(Snapshot(cloud.now(), [vm], []))
    assert isinstance(order, Delete)
    cloud.client.delete(order.name, order.zone)
    sweeper(cloud, at_once).sweep([vm])
    cloud.clock.advance(10)
    assert cloud.vms() == []
