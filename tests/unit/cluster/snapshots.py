"""What the controller sees, made by hand, and a state that is shown it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cluster.control.instructions import Instruction, Tell
from cluster.control.snapshot import Node, Snapshot
from cluster.control.state import ControllerState
from cluster.machines import CLUSTER_LABEL, TYPE_LABEL, Vm, VmStatus
from cluster.vm.report import VmEvent, VmReport

START = datetime(2026, 1, 15, 12, tzinfo=UTC)
JOIN = 300.0
LABELS = {CLUSTER_LABEL: "ironcliw", TYPE_LABEL: "spot"}


def machine(name: str = "vm-1", status: VmStatus = VmStatus.RUNNING, age: float = 60.0) -> Vm:
    return Vm(
        name=name,
        zone="us-central1-a",
        machine_type="e2-highmem-4",
        market="spot",
        status=status,
        created_at=START - timedelta(seconds=age),
        started_at=None,
        stopped_at=None,
        max_run_seconds=14_400,
        disk_gb=50,
        labels=LABELS,
        address="10.0.0.2",
        has_external_address=False,
    )


def node(name: str = "vm-1", *, draining: bool = False, idle: float = 0.0) -> Node:
    return Node(f"node-of-{name}", name, draining, idle)


def report(name: str, *kinds: str, at: datetime = START, joined: bool = True) -> VmReport:
    events = tuple(VmEvent(at, kind, "") for kind in kinds)
    return VmReport(name, at, "node" if joined else "", "boot", 0, events)


@dataclass
class Run:
    """A state and its time."""

    state: ControllerState = field(default_factory=lambda: ControllerState(JOIN, 2))
    now: datetime = START

    def step(self, seconds: float = 0.0, **seen: object) -> list[Instruction]:
        self.now += timedelta(seconds=seconds)
        return self.state.step(replace(Snapshot(self.now), **seen))  # type: ignore[arg-type]

    def acts(self, seconds: float = 0.0, **seen: object) -> list[Instruction]:
        """The same without what is only told."""
        return [one for one in self.step(seconds, **seen) if not isinstance(one, Tell)]


def of(kind: type[Instruction], instructions: Sequence[Instruction]) -> list[Instruction]:
    return [one for one in instructions if isinstance(one, kind)]
