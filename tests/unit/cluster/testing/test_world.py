"""Lives of VMs in a world whose time is moved by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.testing.clocks import ManualClock
from cluster.testing.control_plane import ControlPlane
from cluster.testing.faults import Hook, Preempt
from cluster.testing.instances import Timings
from cluster.testing.world import World

from .conftest import ZONE

Body = Callable[..., dict[str, Any]]
TIMINGS = Timings(provisioning=1, staging=2, boot=3, refusal=0.5, shutdown=4, stopping=5)


class TestLife:
    def test_a_vm_boots_through_all_states(self, make_cloud: Any, body: Body) -> None:
        cloud = make_cloud(timings=TIMINGS)
        operation = cloud.insert(body())
        seen = []
        for _ in range(7):
            instance = cloud.world.named("vm-1")
            powered = instance.is_powered(cloud.world.now)
            seen.append((cloud.status("vm-1"), operation.status(cloud.world.now), powered))
            cloud.advance(1)
        assert seen == [
            ("PROVISIONING", "PENDING", False),
            ("STAGING", "RUNNING", False),
            ("STAGING", "RUNNING", False),
            ("RUNNING", "DONE", False),
            ("RUNNING", "DONE", False),
            ("RUNNING", "DONE", False),
            ("RUNNING", "DONE", True),
        ]

    def test_a_deleted_one_loses_its_power_and_goes(self, make_cloud: Any, body: Body) -> None:
        cloud = make_cloud(timings=TIMINGS)
        cloud.insert(body())
        cloud.advance(10)
        cloud.plane.end(ZONE, "vm-1", None, delete=True)
        instance = cloud.world.named("vm-1")
        assert (cloud.status("vm-1"), instance.is_powered(cloud.world.now)) == ("STOPPING", True)
        cloud.advance(4)
        assert (cloud.status("vm-1"), instance.is_powered(cloud.world.now)) == ("STOPPING", False)
        cloud.advance(5)
        assert cloud.status("vm-1") is None
        assert cloud.kinds() == ["insert", "created", "staging", "running", "stopping", "deleted"]

    def test_one_jump_tells_the_same_story_as_many_steps(self, make_cloud: Any, body: Body) -> None:
        stories = []
        for steps in (1, 100):
            faults = [Preempt(when="running", at=2, notice=10), Hook(at=7.5, label="crash")]
            cloud = make_cloud(timings=TIMINGS, faults=faults)
            cloud.world.hooks["crash"] = lambda cause, cloud=cloud: cloud.world.record(
                "insert", "crash", ""
            )
            begin = cloud.clock()
            cloud.insert(body())
            for _ in range(steps):
                cloud.advance(50 / steps)
            stories.append([(e.kind, round(e.at - begin, 3)) for e in cloud.world.events])
        assert stories[0] == stories[1], "a step that comes late moved what happened"
        assert ("notice", 5.0) in stories[0]
        assert ("insert", 7.5) in stories[0]
        assert ("deleted", 20.0) in stories[0]

    def test_a_guest_that_powers_off_leaves_a_terminated_vm(self, cloud: Any, body: Body) -> None:
        cloud.insert(body(scheduling={"maxRunDuration": {"seconds": "3600"}}))
        cloud.advance(10)
        cloud.world.power_off(cloud.world.named("vm-1"))
        cloud.advance(10)
        assert cloud.status("vm-1") == "TERMINATED"
        cloud.advance(7200)
        assert cloud.status("vm-1") == "TERMINATED"
        cloud.plane.end(ZONE, "vm-1", None, delete=True)
        cloud.advance(1)
        assert cloud.status("vm-1") is None

    @pytest.mark.parametrize(("action", "after"), [("DELETE", None), ("STOP", "TERMINATED")])
    def test_the_longest_run_time_is_enforced(
        self, make_cloud: Any, body: Body, action: str, after: str | None
    ) -> None:
        cloud = make_cloud(timings=TIMINGS)
        limits = {"maxRunDuration": {"seconds": "60"}, "instanceTerminationAction": action}
        cloud.insert(body(scheduling=limits))
        cloud.advance(3 + 59.9)
        assert cloud.status("vm-1") == "RUNNING"
        cloud.advance(0.2)
        assert cloud.status("vm-1") == "STOPPING"
        cloud.advance(9)
        assert cloud.status("vm-1") == after

    def test_deleting_while_it_is_created_fails_the_insert(self, cloud: Any, body: Body) -> None:
        operation = cloud.insert(body())
        cloud.plane.end(ZONE, "vm-1", None, delete=True)
        cloud.advance(1)
        assert operation.error.code == "RESOURCE_NOT_FOUND"
        assert cloud.kinds() == ["insert", "created", "stopping", "deleted"]

    def test_deleting_while_it_stops_leaves_no_disk(self, make_cloud: Any, body: Body) -> None:
        cloud = make_cloud(timings=TIMINGS)
        cloud.insert(body())
        cloud.advance(10)
        cloud.plane.end(ZONE, "vm-1", None, delete=False)
        cloud.advance(8)
        operation = cloud.plane.end(ZONE, "vm-1", None, delete=True)
        assert operation.ends_at == cloud.world.now + 1, "it goes on, and does not begin anew"
        cloud.advance(1)
        assert cloud.status("vm-1") is None
        assert cloud.kinds().count("stopping") == 1


class TestPreemption:
    def test_a_vm_that_asked_for_notice_runs_on_until_the_end(
        self, make_cloud: Any, body: Body
    ) -> None:
        cloud = make_cloud(timings=TIMINGS)
        cloud.insert(body(scheduling={"preemptionNoticeDuration": {"seconds": "120"}}))
        cloud.advance(10)
        instance = cloud.world.named("vm-1")
        cloud.world.preempt(instance)
        cloud.advance(119)
        assert (cloud.status("vm-1"), instance.is_preempted(cloud.world.now)) == ("RUNNING", True)
        cloud.advance(1)
        assert cloud.status("vm-1") == "STOPPING"
        assert not instance.is_powered(cloud.world.now)
        cloud.advance(5)
        assert cloud.status("vm-1") is None

    def test_others_are_stopping_with_their_power_on_for_30_s(self, cloud: Any, body: Body) -> None:
        cloud.insert(body())
        cloud.advance(10)
        instance = cloud.world.named("vm-1")
        cloud.world.preempt(instance)
        cloud.advance(29)
        assert (cloud.status("vm-1"), instance.is_powered(cloud.world.now)) == ("STOPPING", True)
        cloud.advance(1)
        assert not instance.is_powered(cloud.world.now)

    def test_without_notice_the_power_is_off_at_once(self, cloud: Any, body: Body) -> None:
        cloud.insert(body(scheduling={"preemptionNoticeDuration": {"seconds": "120"}}))
        cloud.advance(10)
        instance = cloud.world.named("vm-1")
        cloud.world.add(Preempt(name="vm-*", notice=0))
        assert not instance.is_powered(cloud.world.now)
        assert "notice" not in cloud.kinds()

    def test_it_is_an_operation_of_the_system(self, cloud: Any, body: Body) -> None:
        cloud.insert(body())
        cloud.advance(10)
        cloud.world.preempt(cloud.world.named("vm-1"))
        made = list(cloud.world.operations.values())[-1]
        assert (made.kind, made.user) == ("compute.instances.preempted", "system")
        assert (made.target, made.status(cloud.world.now)) == ("vm-1", "DONE")

    def test_while_it_is_created_the_insert_fails(self, cloud: Any, body: Body) -> None:
        operation = cloud.insert(body())
        cloud.world.preempt(cloud.world.named("vm-1"))
        cloud.advance(1)
        assert operation.error.code == "UNSUPPORTED_OPERATION"
        assert cloud.status("vm-1") is None

    def test_a_regular_vm_is_left_alone(self, cloud: Any, body: Body) -> None:
        cloud.insert(body(scheduling={"provisioningModel": "STANDARD"}))
        cloud.advance(10)
        cloud.world.add(Preempt())
        assert cloud.status("vm-1") == "RUNNING"

    def test_it_keeps_the_disk_where_that_was_asked(self, cloud: Any, body: Body) -> None:
        cloud.insert(body(scheduling={"instanceTerminationAction": "STOP"}))
        cloud.advance(10)
        cloud.world.preempt(cloud.world.named("vm-1"))
        cloud.advance(60)
        assert cloud.status("vm-1") == "TERMINATED"

    def test_a_longest_run_time_that_ends_sooner_wins(self, cloud: Any, body: Body) -> None:
        asked = {
            "maxRunDuration": {"seconds": "60"},
            "preemptionNoticeDuration": {"seconds": "120"},
        }
        cloud.insert(body(scheduling=asked))
        cloud.advance(10)
        cloud.world.preempt(cloud.world.named("vm-1"))
        cloud.advance(51)
        assert cloud.status("vm-1") is None


ACTS = st.one_of(
    st.tuples(st.just("advance"), st.floats(0, 200)),
    st.tuples(st.sampled_from(["insert", "delete", "stop", "preempt", "power off"]), st.just(0.0)),
    st.tuples(st.just("preempt with notice"), st.floats(0, 200)),
)
LATER = ("PROVISIONING", "STAGING", "RUNNING", "STOPPING", "TERMINATED", "DELETED")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(acts=st.lists(ACTS, max_size=12), notice=st.booleans(), delete=st.booleans())
def test_whatever_is_done_a_life_goes_one_way(
    body: Body, acts: list[tuple[str, float]], notice: bool, delete: bool
) -> None:
    clock = ManualClock()
    world = World(clock=clock, timings=TIMINGS)
    plane = ControlPlane(world)
    scheduling: dict[str, Any] = {"maxRunDuration": {"seconds": "300"}}
    if notice:
        scheduling["preemptionNoticeDuration"] = {"seconds": "120"}
    scheduling["instanceTerminationAction"] = "DELETE" if delete else "STOP"
    number = 0
    for act, seconds in [("insert", 0.0), *acts]:
        instance = world.named(f"vm-{number}")
        if act == "advance":
            clock.advance(seconds)
        elif act == "insert" and instance is None:
            number += 1
            plane.insert(ZONE, body(f"vm-{number}", scheduling=scheduling), None)
        elif instance is None or act == "insert":
            continue
        elif act in ("delete", "stop"):
            plane.end(ZONE, instance.name, None, delete=act == "delete")
        elif act == "power off":
            world.power_off(instance)
        else:
            world.preempt(instance, seconds if "with" in act else None)
        world.step()
        _check(world)
    clock.advance(1000)
    world.step()
    # the longest run time leaves nothing that runs, whatever happened before
    assert not any(each.is_powered(world.now) for each in world.instances.values())
    for name in {event.name for event in world.events}:
        _check_story([event.kind for event in world.events if event.name == name])


def _check(world: World) -> None:
    for instance in world.instances.values():
        times = [at for at, _ in instance.timeline]
        assert times == sorted(times)
        assert instance.status(world.now) != "DELETED"
        assert instance.next_moment() > world.now or math.isinf(instance.next_moment())
        if instance.is_powered(world.now):
            assert instance.status(world.now) in ("RUNNING", "STOPPING")


def _check_story(kinds: list[str]) -> None:
    assert kinds.count("deleted") <= 1
    if "deleted" in kinds:
        assert kinds[-1] == "deleted"
    states = [kind.upper() for kind in kinds if kind.upper() in LATER]
    # a stopped VM that is deleted is stopping twice
    order = [LATER.index(state) for state in states if state != "STOPPING"]
    assert order == sorted(order)
