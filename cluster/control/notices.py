"""That a machine goes, and who was the first to know."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cluster.control.snapshot import Snapshot
from cluster.machines import Vm, VmStatus
from cluster.vm.lifecycle import DEFAULT_NOTICE_SECONDS

AGENT_SECONDS = 5
"""An agent that has seen the notice is given so long to drain its node itself."""


@dataclass(frozen=True, slots=True)
class Notice:
    """That a machine goes: since when, how it is known, and when its node must be drained.

    It ends `seconds` after `at`.
    """

    at: datetime
    why: str
    drain_at: datetime
    seconds: int
    is_preemption: bool = True


def notice_of(vm: Vm, seen: Snapshot) -> Notice | None:
    """By the first that knows: the agent, GCE's operations, the machine's state."""
    reported = [
        event.at
        for report in seen.reports
        if report.name == vm.name
        for event in report.events
        if event.kind == "preempted"
    ]
    if vm.name in seen.preempted:
        at = seen.preempted[vm.name]
        return Notice(at, "is taken back by GCE", at, vm.notice_seconds)
    stops = vm.status in (VmStatus.STOPPING, VmStatus.SUSPENDING)
    if reported and (vm.is_live or stops):
        at = reported[-1]
        drain_at = at + timedelta(seconds=AGENT_SECONDS)
        return Notice(at, "is taken back by GCE", drain_at, vm.notice_seconds)
    if stops:
        # the notice is over by then, or there was none
        return Notice(seen.now, "stops", seen.now, DEFAULT_NOTICE_SECONDS, is_preemption=False)
    return None
