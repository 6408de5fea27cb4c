"""The end after `cloud.max_run_hours`: another machine is there before it, and only one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cluster.control.instructions import Demand, Drain, Instruction, Tell
from cluster.control.planned_end import EVENT, PlannedEnd
from cluster.control.snapshot import Node, Snapshot
from cluster.control.state import ControllerState
from cluster.machines import Vm, VmStatus
from cluster.testing.faults import Preempt
from tests.unit.cluster.controller_bench import Bench
from tests.unit.cluster.snapshots import JOIN, START, Run, machine, node, of

MAX_RUN = 14_400.0
ORDER = MAX_RUN - JOIN - 120
WHY = "reaches cloud.max_run_hours at 16:00Z"


def old(name: str = "vm-1", *, age: float = 0.0) -> Vm:
    """A machine that was started so many seconds before START, and ordered a minute earlier."""
    started = START - timedelta(seconds=age)
    return replace(machine(name, age=age + 60), started_at=started)


def test_a_replacement_is_ordered_first_and_the_node_drained_when_it_has_joined() -> None:
    run = Run()
    vms, nodes = [old()], [node()]
    run.step(vms=vms, nodes=nodes)
    assert run.step(ORDER - 1, vms=vms, nodes=nodes) == []
    assert run.step(1, vms=vms, nodes=nodes) == [
        Tell(EVENT, f"machine vm-1 in us-central1-a {WHY}: its replacement is ordered", "vm-1"),
        Demand(2),  # the autoscaler counts the old one until it is drained
    ]
    assert run.step(100, vms=vms, nodes=nodes, demanded=2) == []
    vms, nodes = [old(), machine("vm-2", age=-ORDER)], [node(), node("vm-2", idle=1.0)]
    found = run.acts(1, vms=vms, nodes=nodes, demanded=2)
    assert found == [Drain("node-of-vm-1", "vm-1", 319.0, WHY), Demand(0)]
    nodes = [node(draining=True), node("vm-2")]
    for _ in range(31):
        assert run.acts(10, vms=vms, nodes=nodes) == []
    # the cloud deletes it: no other one is ordered
    vms[0] = replace(vms[0], status=VmStatus.STOPPING)
    assert run.acts(9, vms=vms, nodes=nodes) == []


def test_without_its_replacement_it_is_drained_120_s_before() -> None:
    run = Run()
    seen = {"vms": [old()], "nodes": [node()]}
    run.step(ORDER, **seen)
    assert run.acts(JOIN - 1, demanded=2, **seen) == []
    assert of(Drain, run.step(1, demanded=2, **seen)) == [Drain("node-of-vm-1", "vm-1", 120, WHY)]


def test_an_idle_one_is_only_drained() -> None:
    run = Run()
    seen = {"vms": [old()], "nodes": [node(idle=4.0)]}
    run.step(vms=seen["vms"], nodes=seen["nodes"])
    assert run.step(MAX_RUN - 121, **seen) == []
    assert run.step(1, **seen) == [Drain("node-of-vm-1", "vm-1", 120, WHY)]
    run.state.failed(Drain("node-of-vm-1", "vm-1", 120, WHY))
    assert run.step(1, **seen) == [Drain("node-of-vm-1", "vm-1", 119, WHY)]


def test_one_that_is_taken_up_late_is_replaced_then() -> None:
    run = Run()
    run.step(ORDER, vms=[old()], nodes=[node(idle=4.0)])
    assert of(Demand, run.step(60, vms=[old()], nodes=[node()])) == [Demand(2)]


def test_without_room_for_another_the_drain_comes_with_the_order() -> None:
    run = Run(ControllerState(JOIN, 1))
    found = run.acts(ORDER, vms=[old()], nodes=[node()])
    assert found == [Drain("node-of-vm-1", "vm-1", 420, WHY), Demand(1)]


def test_of_two_each_is_drained_when_one_has_joined() -> None:
    run = Run(ControllerState(JOIN, 10))
    vms = [old(age=1), old("vm-2")]
    found = run.acts(ORDER, vms=vms, nodes=[node(), node("vm-2")])
    assert found == [Demand(4)]
    nodes = [node(), node("vm-2"), node("vm-3")]
    found = run.acts(50, vms=vms, nodes=nodes, demanded=4)
    assert [one.name for one in of(Drain, found)] == ["vm-1"]  # type: ignore[union-attr]
    nodes = [node(draining=True), node("vm-2"), node("vm-3"), node("vm-4")]
    found = run.acts(50, vms=vms, nodes=nodes, demanded=3)
    assert [one.name for one in of(Drain, found)] == ["vm-2"]  # type: ignore[union-attr]


def test_a_preemption_in_between_orders_no_other() -> None:
    run = Run()
    seen = {"vms": [old()], "nodes": [node()]}
    run.step(ORDER, **seen)
    found = run.step(5, preempted={"vm-1": run.now}, demanded=2, **seen)
    assert [type(one) for one in found] == [Tell, Drain, Demand]
    assert found[2] == Demand(1)


def test_a_listing_that_lacks_it_for_a_while_makes_no_second_order() -> None:
    run = Run()
    run.step(ORDER, vms=[old()], nodes=[node()])
    run.step(10, vms=[], nodes=[node()], demanded=2)
    found = run.step(10, vms=[old()], nodes=[node()], demanded=2)
    assert [one.kind for one in of(Tell, found)] == ["joined"]  # type: ignore[union-attr]
    assert of(Demand, found) == []
    # but nothing is remembered for ever
    run.step(2000, vms=[], nodes=[])
    assert run.state._planned.names == frozenset()


@pytest.mark.parametrize(
    "vm",
    [
        replace(old(), max_run_seconds=None),
        replace(old(), status=VmStatus.STAGING),
    ],
)
def test_no_end_is_planned_without_one(vm: Vm) -> None:
    assert PlannedEnd.of(vm, node(), timedelta(seconds=JOIN)) is None


@pytest.mark.parametrize("join", [600.0, 10_000.0])
def test_a_life_that_is_too_short_is_halved(join: float) -> None:
    vm = replace(old(), max_run_seconds=400)
    end = PlannedEnd.of(vm, node(), timedelta(seconds=join))
    assert end is not None
    assert (end.order_at - START).total_seconds() == 200
    assert (end.drain_at - START).total_seconds() == 300


@dataclass
class Autoscaler:
    """Machines that come when they are demanded, and end by themselves; all are in use."""

    join: float
    life: float
    most: int
    boot: float
    state: ControllerState
    time: float = 0.0
    started: dict[str, float] = field(default_factory=dict)
    draining: set[str] = field(default_factory=set)
    ordered: dict[str, float] = field(default_factory=dict)
    demanded: int = 0
    made: int = 0

    def alive(self) -> list[str]:
        return [name for name, at in self.started.items() if at <= self.time < at + self.life]

    def joined(self) -> list[str]:
        return [name for name in self.alive() if self.time >= self.started[name] + self.boot]

    def launch(self) -> None:
        self.made += 1
        self.started[f"vm-{self.made}"] = self.time

    def tick(self, seconds: float) -> Sequence[Instruction]:
        self.time += seconds
        now = START + timedelta(seconds=self.time)
        vms = [
            replace(
                machine(name, age=-self.started[name]),
                started_at=START + timedelta(seconds=self.started[name]),
                max_run_seconds=round(self.life),
            )
            for name in self.alive()
        ]
        nodes: list[Node] = [node(name, draining=name in self.draining) for name in self.joined()]
        seen = Snapshot(now, vms, nodes, demanded=self.demanded)
        found = self.state.step(seen)
        for one in found:
            match one:
                case Drain(_, name):
                    self.draining.add(name)
                case Demand(workers):
                    self.demanded = workers
                case Tell(kind, _, name) if kind == EVENT:
                    assert name not in self.ordered
                    self.ordered[name] = self.time
        counted = [name for name in self.alive() if name not in self.draining]
        # work that has lost its node asks for one by itself
        while len(counted) < min(max(self.demanded, 1), self.most):
            self.launch()
            counted.append(f"vm-{self.made}")
        return found

    def restart(self) -> None:
        ordered = {name: START + timedelta(seconds=at) for name, at in self.ordered.items()}
        self.state = ControllerState(self.join, self.most, ordered=ordered)


@given(
    join=st.sampled_from([60.0, 300.0, 900.0, 20_000.0]),
    most=st.integers(1, 3),
    boot=st.sampled_from([0.2, 0.9]),
    first=st.integers(1, 3),
    restarts=st.sets(st.integers(0, 1500), max_size=4),
)
@hypothesis_settings(max_examples=15, deadline=None)
def test_every_machine_is_replaced_once(
    join: float, most: int, boot: float, first: int, restarts: set[int]
) -> None:
    """Work goes on without a gap, whenever the controller restarts, and nothing grows."""
    first = min(first, most)
    cluster = Autoscaler(join, 7200, most, min(boot * join, 700.0), ControllerState(join, most))
    for _ in range(first):
        cluster.launch()
    for step in range(1500):
        if step in restarts:
            cluster.restart()
        cluster.tick(20)
        if cluster.time > 900:
            assert cluster.joined()
        # those that are being replaced and their replacements
        assert len(cluster.alive()) <= 2 * first
    generations = 30_000 / (7200 / 2) + 1
    assert cluster.made <= first * generations


def test_the_loop_replaces_ahead_even_after_a_restart(bench: Bench) -> None:
    name = bench.launch().name
    bench.head.join(name)
    bench.run(30)
    bench.cloud.clock.advance(ORDER - 200)
    bench.run(300)
    (told,) = bench.cloud.told(EVENT)
    assert f"machine {name} in us-central1-a reaches cloud.max_run_hours at " in told
    (demand,) = bench.head.demand
    assert demand[2] == 2
    bench.start()
    bench.run(10)
    assert [count for _, _, count in bench.head.demand] == [2]
    assert bench.head.drains == []
    bench.head.join("ironcliw-2")
    bench.run(10)
    ((_, message, _),) = bench.head.drains
    assert "reaches cloud.max_run_hours" in message
    bench.head.join(name, "DRAINING")
    bench.start()
    bench.run(10)
    assert bench.head.demand == []
    assert len(bench.cloud.told(EVENT)) == 1
    bench.cloud.compute.world.add(Preempt(notice=30, name=name))
    bench.run(10)
    assert bench.head.demand == []
