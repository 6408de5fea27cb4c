"""What the controller sees at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cluster.machines import Vm
from cluster.vm.report import VmReport


@dataclass(frozen=True, slots=True)
class Node:
    """A node of Ray that is alive; `name` is its machine's, `idle_seconds` 0 while it works."""

    node_id: str
    name: str
    is_draining: bool
    idle_seconds: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the controller sees.

    Attributes:
        now: By the cloud's clock, as well as it is known.
        vms: All machines of the cluster; None: not known now.
        nodes: Ray's living workers; None: the head cannot be reached.
        preempted: When GCE took machines back, by its operations.
        reports: The last words of the machines' agents.
        over: Why the cap is passed; empty: it is not.
        overdue: Machines that have outlived their `max_run`.
        floor: So many workers are wanted in any case: keep-warm windows and leases.
        demanded: How many are demanded of the autoscaler in our name now.
    """

    now: datetime
    vms: Sequence[Vm] | None = None
    nodes: Sequence[Node] | None = None
    preempted: Mapping[str, datetime] = field(default_factory=dict)
    reports: Sequence[VmReport] = ()
    over: str = ""
    overdue: Sequence[str] = ()
    floor: int = 0
    demanded: int = 0
