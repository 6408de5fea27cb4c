"""What the controller decides, from snapshots alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.control.instructions import Delete, Demand, Drain, Instruction, Tell
from cluster.control.newcomers import GONE_SECONDS
from cluster.control.planned_end import EVENT
from cluster.control.snapshot import Node
from cluster.control.state import CAP_DRAIN_SECONDS, ORPHAN_SECONDS, SETTLE_SECONDS, ControllerState
from cluster.machines import CLUSTER_LABEL, Vm, VmStatus
from tests.unit.cluster.snapshots import JOIN, START, Run, machine, node, of, report


@pytest.fixture
def run() -> Run:
    return Run()


def test_a_machine_that_works_is_left_alone(run: Run) -> None:
    assert run.step(vms=[machine()], nodes=[node()]) == [
        Tell("joined", "machine vm-1 joined 60 s after its order", "vm-1")
    ]
    for _ in range(300):
        assert run.step(2, vms=[machine()], nodes=[node()]) == []


class TestStopped:
    @pytest.mark.parametrize("status", [VmStatus.TERMINATED, VmStatus.SUSPENDED])
    def test_its_disk_is_not_kept(self, run: Run, status: VmStatus) -> None:
        (delete,) = run.acts(vms=[machine(status=status)], nodes=[])
        assert isinstance(delete, Delete)
        assert "its disk costs on" in delete.reason

    def test_also_while_the_head_cannot_be_reached(self, run: Run) -> None:
        assert len(run.acts(vms=[machine(status=VmStatus.TERMINATED)])) == 1

    def test_once_a_minute(self, run: Run) -> None:
        stopped = [machine(status=VmStatus.TERMINATED)]
        assert len(run.acts(vms=stopped)) == 1
        assert [len(run.acts(10, vms=stopped)) for _ in range(7)] == [0, 0, 0, 0, 0, 1, 0]

    def test_one_that_outlives_its_time(self, run: Run) -> None:
        (delete,) = run.acts(vms=[machine()], nodes=[node()], overdue=["vm-1"])
        assert "max_run_hours" in delete.reason  # type: ignore[union-attr]


class TestWithoutNode:
    def test_one_that_boots_is_waited_for(self, run: Run) -> None:
        vms = [machine(age=0)]
        assert all(run.acts(2, vms=vms, nodes=[]) == [] for _ in range(155))

    def test_one_that_never_joins_is_deleted(self, run: Run) -> None:
        vms = [machine(age=0)]
        run.step(vms=vms, nodes=[])
        (delete,) = run.acts(JOIN + SETTLE_SECONDS, vms=vms, nodes=[])
        assert delete == Delete("vm-1", "us-central1-a", "it has not joined within 320 s", True)

    def test_a_new_controller_looks_first(self, run: Run) -> None:
        vms = [machine(age=10_000)]
        assert run.acts(vms=vms, nodes=[]) == []
        assert run.acts(SETTLE_SECONDS - 1, vms=vms, nodes=[]) == []
        assert len(run.acts(1, vms=vms, nodes=[])) == 1

    def test_a_clock_of_the_cloud_that_is_ahead_does_not_keep_it(self, run: Run) -> None:
        vms = [machine(age=-3600)]
        run.step(vms=vms, nodes=[])
        assert len(run.acts(JOIN + SETTLE_SECONDS, vms=vms, nodes=[])) == 1

    @pytest.mark.parametrize("how", ["seen", "reported"])
    def test_one_that_lost_its_node_may_come_back(self, run: Run, how: str) -> None:
        vms, reports = [machine(age=10_000)], []
        if how == "seen":
            run.step(vms=vms, nodes=[node()])
        else:
            reports = [report("vm-1", "joined")]
        run.step(vms=vms, nodes=[], reports=reports)
        assert run.acts(ORPHAN_SECONDS - 1, vms=vms, nodes=[], reports=reports) == []
        (delete,) = run.acts(1, vms=vms, nodes=[], reports=reports)
        assert "has been gone for 180 s" in delete.reason  # type: ignore[union-attr]

    def test_a_head_that_restarts_deletes_nothing(self, run: Run) -> None:
        vms = [replace(machine(age=10_000), max_run_seconds=86_400)]
        run.step(vms=vms, nodes=[node()])
        run.step(2, vms=vms, nodes=[])
        for _ in range(100):
            assert run.acts(60, vms=vms, nodes=None) == []
        assert run.acts(2, vms=vms, nodes=[]) == []
        assert run.acts(60, vms=vms, nodes=[node()]) == []

    def test_an_unknown_listing_deletes_nothing(self, run: Run) -> None:
        assert run.step(vms=None, nodes=[node()]) == []

    def test_one_that_nobody_knows_is_said_to_be_so(self, run: Run) -> None:
        vms = [replace(machine(age=10_000), labels={CLUSTER_LABEL: "ironcliw"})]
        run.step(vms=vms, nodes=[])
        (delete,) = run.acts(SETTLE_SECONDS, vms=vms, nodes=[])
        assert "nobody knows it" in delete.reason  # type: ignore[union-attr]


class TestNeverJoined:
    """Which ends count against the next machine."""

    def stopped(self, run: Run, **seen: object) -> bool:
        vms = [machine(status=VmStatus.TERMINATED)]
        (delete,) = of(Delete, run.step(vms=vms, **seen))
        assert isinstance(delete, Delete)
        assert delete.never_joined == ("before it joined" in delete.reason)
        return delete.never_joined

    def test_one_that_stopped(self, run: Run) -> None:
        run.step(vms=[machine()], nodes=[])
        assert self.stopped(run, nodes=[])

    def test_one_that_had_joined(self, run: Run) -> None:
        run.step(vms=[machine()], nodes=[node()])
        assert not self.stopped(run, nodes=[])

    def test_one_that_an_earlier_controller_saw_joining(self, run: Run) -> None:
        run.state = ControllerState(JOIN, 2, joined=["vm-1"])
        assert not self.stopped(run, nodes=[])

    def test_nobody_knows_while_the_head_is_away(self, run: Run) -> None:
        assert not self.stopped(run)

    @pytest.mark.parametrize("kind", ["joined", "mismatched", "preempted"])
    def test_one_whose_agent_said_why(self, run: Run, kind: str) -> None:
        assert not self.stopped(run, nodes=[], reports=[report("vm-1", kind, joined=False)])

    def test_one_that_was_taken_back(self, run: Run) -> None:
        assert not self.stopped(run, nodes=[], preempted={"vm-1": START})

    def test_one_at_the_cap(self, run: Run) -> None:
        run.step(vms=[machine()], nodes=[], over="9 USD of 5")
        assert not self.stopped(run, nodes=[], over="9 USD of 5")

    def test_one_that_is_not_ours(self, run: Run) -> None:
        vms = [replace(machine(age=10_000), labels={CLUSTER_LABEL: "ironcliw"})]
        run.step(vms=vms, nodes=[])
        (delete,) = of(Delete, run.step(SETTLE_SECONDS, vms=vms, nodes=[]))
        assert not delete.never_joined  # type: ignore[union-attr]


class TestGoneBeforeItJoined:
    def test_it_is_told_once_when_nothing_else_can_be_the_reason(self, run: Run) -> None:
        run.step(vms=[machine()], nodes=[])
        assert run.step(2, vms=[], nodes=[]) == []
        assert run.step(GONE_SECONDS - 1, vms=[], nodes=[]) == []
        (told,) = run.step(1, vms=[], nodes=[])
        assert isinstance(told, Tell)
        assert (told.kind, told.name) == ("not_joined", "vm-1")
        assert "was gone before it joined; look at the key of the VPN" in told.message
        assert run.step(60, vms=[], nodes=[]) == []

    def test_a_listing_that_lacked_it_once(self, run: Run) -> None:
        run.step(vms=[machine()], nodes=[])
        for _ in range(20):
            assert run.step(20, vms=[], nodes=[]) == []
            assert of(Tell, run.step(2, vms=[machine()], nodes=[])) == []
            run.state._deleted.clear()

    def test_a_preemption_that_is_known_late_does_not_count(self, run: Run) -> None:
        run.step(vms=[machine()], nodes=[])
        run.step(2, vms=[], nodes=[])
        for _ in range(10):
            assert run.step(20, vms=[], nodes=[], preempted={"vm-1": START}) == []

    def test_one_that_had_joined(self, run: Run) -> None:
        run.step(vms=[machine()], nodes=[])
        run.step(2, vms=[machine()], nodes=[node()])
        assert [run.step(40, vms=[], nodes=[]) for _ in range(3)] == [[], [], []]

    def test_one_that_was_deleted_here_and_is_listed_for_a_while(self, run: Run) -> None:
        run.step(vms=[machine(age=0)], nodes=[])
        assert len(run.acts(2, vms=[machine()], nodes=[], overdue=["vm-1"])) == 1
        run.step(2, vms=[machine()], nodes=[])
        assert [run.step(40, vms=[], nodes=[]) for _ in range(3)] == [[], [], []]

    def test_nothing_is_told_while_the_head_is_away(self, run: Run) -> None:
        run.step(vms=[machine()], nodes=[])
        assert [run.step(40, vms=[]) for _ in range(3)] == [[], [], []]


class TestTakenBack:
    def test_the_agent_drains_and_the_replacement_is_demanded(self, run: Run) -> None:
        vms, reports = [machine()], [report("vm-1", "joined", "preempted")]
        run.step(vms=vms, nodes=[node()])
        found = run.step(1, vms=vms, nodes=[node(draining=True)], reports=reports)
        assert [type(one) for one in found] == [Tell, Demand]
        assert found[1] == Demand(1)
        # the same notice again: nothing new
        again = run.step(2, vms=vms, nodes=[node(draining=True)], reports=reports, demanded=1)
        assert again == []
        # the replacement is there
        both = [machine(), machine("vm-2")]
        nodes = [node(draining=True), node("vm-2")]
        assert run.acts(2, vms=both, nodes=nodes, reports=reports, demanded=1) == [Demand(0)]

    def test_an_agent_that_cannot_drain_is_helped(self, run: Run) -> None:
        vms, reports = [machine()], [report("vm-1", "preempted")]
        assert of(Drain, run.step(vms=vms, nodes=[node()], reports=reports)) == []
        (drain,) = of(Drain, run.step(5, vms=vms, nodes=[node()], reports=reports))
        assert drain == Drain("node-of-vm-1", "vm-1", 25.0, "is taken back by GCE")
        assert of(Drain, run.step(1, vms=vms, nodes=[node()], reports=reports)) == []

    def test_a_silent_agent_is_not_waited_for(self, run: Run) -> None:
        at = START - timedelta(seconds=4)
        (drain,) = of(Drain, run.step(vms=[machine()], nodes=[node()], preempted={"vm-1": at}))
        assert drain == Drain("node-of-vm-1", "vm-1", 26.0, "is taken back by GCE")

    @pytest.mark.parametrize("how", ["operations", "agent"])
    def test_one_with_a_longer_notice_is_given_it(self, run: Run, how: str) -> None:
        vms = [replace(machine(), notice_seconds=120)]
        at = START - timedelta(seconds=10)
        seen: dict[str, object] = {"preempted": {"vm-1": at}}
        if how == "agent":
            seen = {"reports": [report("vm-1", "preempted", at=at)]}
        (drain,) = of(Drain, run.step(vms=vms, nodes=[node()], **seen))
        assert drain == Drain("node-of-vm-1", "vm-1", 110.0, "is taken back by GCE")

    def test_an_agent_that_drains_is_left_alone_while_its_machine_stops(self, run: Run) -> None:
        vms, reports = [machine(status=VmStatus.STOPPING)], [report("vm-1", "preempted")]
        found = run.step(vms=vms, nodes=[node()], reports=reports)
        assert of(Drain, found) == []
        assert "preempted" in {one.kind for one in of(Tell, found)}  # type: ignore[union-attr]

    def test_one_that_stops_is_drained(self, run: Run) -> None:
        vms = [machine(status=VmStatus.STOPPING)]
        found = run.step(vms=vms, nodes=[node()])
        assert of(Drain, found) == [Drain("node-of-vm-1", "vm-1", 30.0, "stops")]
        assert of(Demand, found) == [Demand(1)]

    def test_a_drain_that_fails_is_tried_again(self, run: Run) -> None:
        seen = {"vms": [machine()], "nodes": [node()], "preempted": {"vm-1": START}}
        (drain,) = of(Drain, run.step(**seen))
        assert of(Drain, run.step(2, **seen)) == []
        run.state.failed(drain)
        assert len(of(Drain, run.step(2, **seen))) == 1

    def test_one_that_was_idle_is_not_replaced(self, run: Run) -> None:
        found = run.step(vms=[machine()], nodes=[node(idle=3.0)], preempted={"vm-1": START})
        assert of(Demand, found) == []

    def test_the_others_count(self, run: Run) -> None:
        run.state = ControllerState(JOIN, 10)
        vms = [machine(f"vm-{number}") for number in range(3)]
        nodes = [node("vm-0", draining=True), node("vm-1"), node("vm-2")]
        found = run.step(vms=vms, nodes=nodes, preempted={"vm-0": START})
        assert of(Demand, found) == [Demand(3)]
        nodes = [node("vm-0", draining=True), node("vm-1", draining=True), node("vm-2")]
        taken = {"vm-0": START, "vm-1": START}
        found = run.step(2, vms=vms, nodes=nodes, preempted=taken, demanded=3)
        assert of(Demand, found) == []

    def test_a_replacement_that_does_not_come_is_given_up(self, run: Run) -> None:
        vms = [machine()]
        run.step(vms=vms, nodes=[node()], preempted={"vm-1": START})
        assert run.acts(300, vms=[], nodes=[], demanded=1) == []
        assert run.acts(20, vms=[], nodes=[], demanded=1) == [Demand(0)]

    def test_no_more_than_the_autoscaler_may_have(self, run: Run) -> None:
        assert run.acts(vms=[], nodes=[], floor=7) == [Demand(2)]


class TestFloor:
    def test_keep_warm_is_demanded_and_given_up(self, run: Run) -> None:
        assert run.acts(vms=[], nodes=[], floor=1) == [Demand(1)]
        assert run.acts(2, vms=[], nodes=[], floor=1, demanded=1) == []
        assert run.acts(2, vms=[], nodes=[], floor=0, demanded=1) == [Demand(0)]

    def test_what_an_earlier_controller_demanded_is_taken_back(self, run: Run) -> None:
        assert run.acts(vms=None, nodes=[], demanded=2) == [Demand(0)]


class TestCap:
    def test_work_is_drained_and_then_ended(self, run: Run) -> None:
        vms = [machine(), machine("vm-2")]
        nodes = [node(), node("vm-2", draining=True)]
        found = run.step(vms=vms, nodes=nodes, over="9 USD of 5", floor=2)
        told = [one.message for one in found if isinstance(one, Tell) and one.kind == "budget"]
        assert told == [f"machine {vm.name} is drained: 9 USD of 5" for vm in vms]
        assert of(Drain, found) == [Drain("node-of-vm-1", "vm-1", 120.0, "9 USD of 5")]
        assert of(Demand, found) == []
        assert run.acts(CAP_DRAIN_SECONDS - 1, vms=vms, nodes=nodes, over="x") == []
        found = run.acts(1, vms=vms, nodes=nodes)
        assert [one.name for one in found if isinstance(one, Delete)] == ["vm-1", "vm-2"]

    def test_also_while_the_head_cannot_be_reached(self, run: Run) -> None:
        run.step(vms=[machine()], over="x")
        (drain,) = run.acts(20, vms=[machine()], nodes=[node()], over="x")
        assert isinstance(drain, Drain)
        assert drain.seconds == 100
        assert len(run.acts(100, vms=[machine()])) == 1


class Lives(RuleBasedStateMachine):
    """Machines and nodes that come, go and are seen or not, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.run = Run()
        self.vms: dict[str, Vm] = {}
        self.nodes: dict[str, Node] = {}
        self.preempted: dict[str, datetime] = {}
        self.drains: list[str] = []
        self.demanded = 0
        self.ordered: list[str] = []
        self.sees_head = self.sees_cloud = True
        self.made = 0

    @rule(join=st.booleans())
    def launch(self, join: bool) -> None:
        self.made += 1
        vm = replace(machine(f"vm-{self.made}"), created_at=self.run.now, max_run_seconds=2000)
        self.vms[vm.name] = vm
        if join:
            self.nodes[vm.name] = node(vm.name)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), idle=st.sampled_from([0.0, 5.0]), draining=st.booleans())
    def change_node(self, data: st.DataObject, idle: float, draining: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        draining = draining or self.nodes[name].is_draining
        self.nodes[name] = node(name, idle=idle, draining=draining)

    @precondition(lambda self: self.vms)
    @rule(
        data=st.data(),
        how=st.sampled_from(["preempt", "stop", "stopped", "vanish", "raylet dies"]),
    )
    def lose(self, data: st.DataObject, how: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.vms)))
        if how == "preempt":
            self.preempted[name] = self.run.now
        elif how == "stop":
            self.vms[name] = replace(self.vms[name], status=VmStatus.STOPPING)
        elif how == "stopped":
            self.vms[name] = replace(self.vms[name], status=VmStatus.TERMINATED)
            self.nodes.pop(name, None)
        elif how == "vanish":
            del self.vms[name]
        else:
            self.nodes.pop(name, None)

    @rule(head=st.booleans(), cloud=st.booleans())
    def lose_sight(self, head: bool, cloud: bool) -> None:
        self.sees_head, self.sees_cloud = head, cloud

    @rule(
        seconds=st.sampled_from([0, 2, 5, 19, 60, 400]),
        over=st.sampled_from(["", "", "", "9 USD of 5"]),
        floor=st.integers(0, 4),
    )
    def tick(self, seconds: int, over: str, floor: int) -> None:
        found = self.run.step(
            seconds,
            vms=list(self.vms.values()) if self.sees_cloud else None,
            nodes=list(self.nodes.values()) if self.sees_head else None,
            preempted=self.preempted,
            over=over,
            floor=floor,
            demanded=self.demanded,
        )
        for one in found:
            self.carry_out(one)

    def carry_out(self, one: Instruction) -> None:
        if isinstance(one, Drain):
            assert self.sees_head
            assert not self.nodes[one.name].is_draining
            assert one.seconds > 0
            self.drains.append(one.node_id)
            self.nodes[one.name] = replace(self.nodes[one.name], is_draining=True)
        elif isinstance(one, Tell) and one.kind == EVENT:
            self.ordered.append(one.name)
        elif isinstance(one, Delete):
            assert self.sees_cloud
            vm = self.vms.pop(one.name)
            has_node = self.nodes.pop(one.name, None) is not None
            assert not has_node or not vm.is_live or "cap" in one.reason
        elif isinstance(one, Demand):
            assert self.sees_head
            assert 0 <= one.workers <= 2
            assert one.workers != self.demanded
            self.demanded = one.workers

    @invariant()
    def no_node_is_drained_twice(self) -> None:
        assert len(self.drains) == len(set(self.drains))

    @invariant()
    def no_machine_is_replaced_ahead_twice(self) -> None:
        assert len(self.ordered) == len(set(self.ordered))


TestLives = Lives.TestCase
TestLives.settings = hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None)
