"""What the controller decides: pure. What it sees goes in, instructions come out.

The autoscaler starts machines for demand and removes idle ones; the agent on each machine drains it
when it is taken back. Here is what neither of them does: the drain of a machine whose agent could
not, the replacement that is asked for at the notice rather than after the loss, the deletion of
machines that nobody uses any more, and the end of work at the cap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from cluster.control.instructions import Delete, Demand, Drain, Instruction, Tell
from cluster.control.newcomers import Newcomers
from cluster.control.notices import notice_of
from cluster.control.planned_end import EVENT, PlannedEnds
from cluster.control.snapshot import Node, Snapshot
from cluster.launch.not_joined import NEXT_STEP, NOT_JOINED
from cluster.machines import TYPE_LABEL, Vm

ORPHAN_SECONDS = 180
"""A machine whose Ray node is gone is deleted after it; a restarted head has it back in 60 s."""
SETTLE_SECONDS = 20
"""No machine counts as without a node before this process has looked for so long."""
CAP_DRAIN_SECONDS = 120
"""Work is given so long to end when the cap is reached."""
DELETE_AGAIN_SECONDS = 60
# of an agent's events: those after which it is no wonder that a machine does not join
_REASONS = frozenset({"joined", "mismatched", "preempted"})


class ControllerState:
    """Remembers what was seen and done; all of it can be lost, and is then seen again.

    Args:
        join_seconds: A machine that has not joined by then is of no use.
        max_workers: The autoscaler starts no more.
        ordered: When an earlier controller ordered the replacements of machines that were about to
            reach their planned end.
        joined: Machines that are known to have joined before.
    """

    def __init__(
        self,
        join_seconds: float,
        max_workers: int,
        *,
        ordered: Mapping[str, datetime] | None = None,
        joined: Iterable[str] = (),
    ) -> None:
        self._join = timedelta(seconds=join_seconds)
        self._max_workers = max_workers
        self._joined: set[str] = set(joined)
        self._newcomers = Newcomers()
        self._lonely: dict[str, datetime] = {}
        self._noticed: dict[str, datetime] = {}
        self._drained: set[str] = set()
        self._deleted: dict[str, datetime] = {}
        self._leaving: dict[str, datetime] = {}
        self._planned = PlannedEnds(self._join, ordered or {})
        self._resumes = bool(ordered)
        self._target = 0
        self._target_until: datetime | None = None

    def step(self, seen: Snapshot) -> list[Instruction]:
        """What to do now."""
        done: list[Instruction] = []
        if seen.vms is not None:
            self._forget(seen.vms)
            done += self._stopped(seen, seen.vms)
            done += self._cap(seen, seen.vms, seen.nodes or ())
        if seen.nodes is None:
            # a head that starts again knows none of its nodes at first
            self._lonely.clear()
            return done
        if seen.vms is not None:
            done += self._taken_back(seen, seen.vms, seen.nodes)
            done += self._reach_end(seen, seen.vms, seen.nodes)
            done += self._without_node(seen, seen.vms, seen.nodes)
            done += self._gone(seen, seen.vms)
        return [*done, *self._demand(seen, seen.nodes)]

    def failed(self, instruction: Instruction) -> None:
        """An instruction could not be carried out: it is given again when it still holds."""
        if isinstance(instruction, Drain):
            self._drained.discard(instruction.name)

    def _forget(self, vms: Sequence[Vm]) -> None:
        """Names are not used twice: what is not listed any more needs no memory."""
        names = {vm.name for vm in vms}
        self._joined &= names
        self._drained &= names
        for memory in (self._lonely, self._noticed, self._deleted, self._leaving):
            for name in memory.keys() - names:
                del memory[name]

    def _stopped(self, seen: Snapshot, vms: Sequence[Vm]) -> Iterator[Instruction]:
        for vm in vms:
            if vm.is_stopped:
                never = seen.nodes is not None and vm.name not in self._settled(seen)
                never = never and TYPE_LABEL in vm.labels
                when = " before it joined" if never else ""
                reason = f"it has stopped{when}, and its disk costs on"
                yield from self._delete(seen, vm, reason, never)
            elif vm.name in seen.overdue:
                yield from self._delete(seen, vm, "it has outlived cloud.max_run_hours")

    def _taken_back(
        self, seen: Snapshot, vms: Sequence[Vm], nodes: Sequence[Node]
    ) -> Iterator[Instruction]:
        """Drains what goes, and asks for the replacement of what is in use."""
        by_name = {node.name: node for node in nodes}
        for vm in vms:
            notice = notice_of(vm, seen)
            if notice is None:
                continue
            node = by_name.get(vm.name)
            if vm.name not in self._noticed:
                self._noticed[vm.name] = seen.now
                if notice.is_preemption:
                    yield Tell("preempted", f"machine {vm.name} in {vm.zone} {notice.why}", vm.name)
                is_used = node is not None and node.idle_seconds == 0
                if is_used and vm.name not in self._planned.names:
                    self._replace(seen.now, nodes)
            if node is None or node.is_draining or vm.name in self._drained:
                continue
            if seen.now >= notice.drain_at:
                self._drained.add(vm.name)
                left = (notice.at - seen.now).total_seconds() + notice.seconds
                yield Drain(node.node_id, vm.name, max(left, 1.0), notice.why)

    def _reach_end(
        self, seen: Snapshot, vms: Sequence[Vm], nodes: Sequence[Node]
    ) -> Iterator[Instruction]:
        """The same ahead of the end that every machine has."""
        planned = self._planned
        planned.forget((vm.name for vm in vms), seen.now)
        self._resume(seen, nodes)
        ends = [
            end
            for end in planned.of(vms, nodes)
            if end.node.name not in self._noticed.keys() | self._leaving.keys() | self._drained
        ]
        for end in ends:
            name, is_used = end.node.name, end.node.idle_seconds == 0
            if is_used and name not in planned.names and seen.now >= end.order_at:
                planned.order(name, seen.now)
                self._replace(seen.now, nodes)
                message = f"machine {name} in {end.zone} {end.why}: its replacement is ordered"
                yield Tell(EVENT, message, name)
        staying = self._staying(nodes)
        missing = max(0, self._target - staying)
        for end in planned.ready(ends, seen.now, staying, missing, self._max_workers):
            self._drained.add(end.node.name)
            left = (end.at - seen.now).total_seconds()
            yield Drain(end.node.node_id, end.node.name, max(left, 1.0), end.why)

    def _resume(self, seen: Snapshot, nodes: Sequence[Node]) -> None:
        """After a restart the head still knows how many workers were demanded."""
        order, self._resumes = self._planned.last_order if self._resumes else None, False
        if order is not None:
            self._target = max(0, seen.demanded - self._ahead(nodes))
            self._target_until = order + self._join + timedelta(seconds=SETTLE_SECONDS)

    def _replace(self, now: datetime, nodes: Sequence[Node]) -> None:
        # those that are about to be drained are wanted again: as many as now
        lost = len(self._going() & {node.name for node in nodes})
        self._target = max(self._target, self._staying(nodes) + lost)
        self._target_until = now + self._join + timedelta(seconds=SETTLE_SECONDS)

    def _going(self) -> frozenset[str]:
        return self._planned.names | self._noticed.keys()

    def _staying(self, nodes: Sequence[Node]) -> int:
        going = self._going()
        return sum(not node.is_draining and node.name not in going for node in nodes)

    def _ahead(self, nodes: Sequence[Node]) -> int:
        """Nodes that are replaced before they are drained: for the autoscaler they count."""
        ahead = self._planned.names - self._noticed.keys()
        return sum(not node.is_draining and node.name in ahead for node in nodes)

    def _without_node(
        self, seen: Snapshot, vms: Sequence[Vm], nodes: Sequence[Node]
    ) -> Iterator[Instruction]:
        names = {node.name for node in nodes}
        reported = {report.name for report in seen.reports if report.node_id}
        for vm in vms:
            if vm.name in names:
                self._lonely.pop(vm.name, None)
                if vm.name not in self._joined:
                    self._joined.add(vm.name)
                    age = (seen.now - vm.created_at).total_seconds()
                    yield Tell(
                        "joined", f"machine {vm.name} joined {age:.0f} s after its order", vm.name
                    )
                continue
            if not vm.is_live:
                continue
            alone = seen.now - self._lonely.setdefault(vm.name, seen.now)
            if reason := self._useless(vm, seen.now, alone, vm.name in self._joined | reported):
                never = vm.name not in self._settled(seen) and TYPE_LABEL in vm.labels
                yield from self._delete(seen, vm, reason, never)

    def _settled(self, seen: Snapshot) -> set[str]:
        """Machines that joined, or have a reason of their own not to."""
        reported = {
            report.name
            for report in seen.reports
            if report.node_id or any(event.kind in _REASONS for event in report.events)
        }
        return self._joined | reported | seen.preempted.keys() | self._leaving.keys()

    def _gone(self, seen: Snapshot, vms: Sequence[Vm]) -> Iterator[Instruction]:
        settled = self._settled(seen) | self._deleted.keys()
        for name, zone in self._newcomers.gone(seen.now, vms, settled):
            message = f"machine {name} in {zone} was gone before it joined; {NEXT_STEP}"
            yield Tell(NOT_JOINED, message, name)

    def _useless(self, vm: Vm, now: datetime, alone: timedelta, had_node: bool) -> str:
        if alone < timedelta(seconds=SETTLE_SECONDS):
            return ""
        if had_node:
            gone = alone >= timedelta(seconds=ORPHAN_SECONDS)
            return f"its Ray node has been gone for {ORPHAN_SECONDS} s" if gone else ""
        limit = self._join + timedelta(seconds=SETTLE_SECONDS)
        if now - vm.created_at < limit and alone < limit:
            return ""
        if TYPE_LABEL not in vm.labels:
            # ours by the ledger or by the head's label: somebody changed its labels by hand
            return f"it has our cluster's label and no {TYPE_LABEL}: nobody knows it"
        return f"it has not joined within {limit.total_seconds():.0f} s"

    def _cap(
        self, seen: Snapshot, vms: Sequence[Vm], nodes: Sequence[Node]
    ) -> Iterator[Instruction]:
        """Work is drained and told so; a machine that was told once goes, whatever comes."""
        by_name = {node.name: node for node in nodes}
        for vm in (vm for vm in vms if vm.is_live):
            if seen.over and vm.name not in self._leaving:
                self._leaving[vm.name] = seen.now + timedelta(seconds=CAP_DRAIN_SECONDS)
                yield Tell("budget", f"machine {vm.name} is drained: {seen.over}", vm.name)
            if vm.name not in self._leaving:
                continue
            left = (self._leaving[vm.name] - seen.now).total_seconds()
            node = by_name.get(vm.name)
            if left <= 0:
                yield from self._delete(seen, vm, "the budget's cap is reached")
            elif node is not None and not node.is_draining and vm.name not in self._drained:
                self._drained.add(vm.name)
                yield Drain(node.node_id, vm.name, left, seen.over or "the budget's cap is reached")

    def _demand(self, seen: Snapshot, nodes: Sequence[Node]) -> Iterator[Instruction]:
        until = self._target_until
        if until is not None and (self._staying(nodes) >= self._target or seen.now >= until):
            self._target, self._target_until = 0, None
        target = self._target + self._ahead(nodes) if self._target else 0
        wanted = 0 if seen.over else min(max(seen.floor, target), self._max_workers)
        if wanted != seen.demanded:
            yield Demand(wanted)

    def _delete(
        self, seen: Snapshot, vm: Vm, reason: str, never_joined: bool = False
    ) -> Iterator[Instruction]:
        before = self._deleted.get(vm.name)
        if before and seen.now - before < timedelta(seconds=DELETE_AGAIN_SECONDS):
            return
        self._deleted[vm.name] = seen.now
        self._newcomers.drop(vm.name)
        yield Delete(vm.name, vm.zone, reason, never_joined)
