"""The end that is known in advance: the cloud deletes a machine after `cloud.max_run_hours`.

A machine that is in use then is replaced as at a preemption, but ahead of time: the other one is
ordered so early that it can join, and only then the node of the first is drained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cluster.control.snapshot import Node
from cluster.events import EventLog
from cluster.machines import Vm, VmStatus

EVENT = "max_run"
"""Kind of the event that a replacement is ordered; a new controller reads it."""
DRAIN_SECONDS = 120
"""So long before the end a node is drained at the latest."""
_REMEMBERED = 200
_FORGET_AFTER = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class PlannedEnd:
    """When a machine ends, and what is done before.

    Attributes:
        node: On the machine.
        zone: Of the machine.
        at: When the cloud deletes it.
        drain_at: Its node is drained by then.
        order_at: From then on its replacement is ordered, if it is in use.
    """

    node: Node
    zone: str
    at: datetime
    drain_at: datetime
    order_at: datetime

    @property
    def why(self) -> str:
        """For events and for Ray, after the machine's name."""
        return f"reaches cloud.max_run_hours at {self.at.astimezone(UTC):%H:%M}Z"

    @classmethod
    def of(cls, vm: Vm, node: Node, join: timedelta) -> PlannedEnd | None:
        """The end of a machine that runs; None: it has none.

        A machine that lives hardly longer than another one takes to join is replaced at half of its
        life: at its start it would be replaced without end.
        """
        if vm.max_run_seconds is None or vm.status is not VmStatus.RUNNING:
            return None
        life = timedelta(seconds=vm.max_run_seconds)
        at = (vm.started_at or vm.created_at) + life
        last = min(timedelta(seconds=DRAIN_SECONDS), life / 4)
        return cls(node, vm.zone, at, at - last, at - min(join + last, life / 2))


class PlannedEnds:
    """Which machines have been replaced ahead: each once, whatever a listing lacks for a while.

    Args:
        join: A machine needs so long to join at the most.
        ordered: When the replacements were ordered that an earlier controller has asked for.
    """

    def __init__(self, join: timedelta, ordered: Mapping[str, datetime]) -> None:
        self._join = join
        self._ordered = dict(ordered)

    @property
    def names(self) -> frozenset[str]:
        """Machines whose replacement was ordered."""
        return frozenset(self._ordered)

    @property
    def last_order(self) -> datetime | None:
        """When a replacement was ordered last."""
        return max(self._ordered.values(), default=None)

    def order(self, name: str, now: datetime) -> None:
        """Note that the replacement of a machine is ordered."""
        self._ordered[name] = now

    def forget(self, listed: Iterable[str], now: datetime) -> None:
        """Forget machines that are not listed and have ended for sure."""
        longest = self._join + timedelta(seconds=DRAIN_SECONDS) + _FORGET_AFTER
        for name in self._ordered.keys() - set(listed):
            if now - self._ordered[name] > longest:
                del self._ordered[name]

    def of(self, vms: Iterable[Vm], nodes: Iterable[Node]) -> list[PlannedEnd]:
        """The ends of all machines with a node that nobody drains, the next one first."""
        by_name = {node.name: node for node in nodes if not node.is_draining}
        ends = (PlannedEnd.of(vm, by_name[vm.name], self._join) for vm in vms if vm.name in by_name)
        return sorted((end for end in ends if end is not None), key=lambda end: end.at)

    def ready(
        self, ends: Sequence[PlannedEnd], now: datetime, staying: int, missing: int, room: int
    ) -> list[PlannedEnd]:
        """Those whose node is drained now.

        Args:
            ends: Of machines that still work.
            now: By the cloud's clock.
            staying: Nodes beside those that are being replaced.
            missing: Replacements that are still to join.
            room: The autoscaler has no more workers than that at once, except for draining ones.
                Without a place for the replacement the drain is what makes one, so it comes
                first: what runs goes on until the end, and finds another node before it.
        """
        waiting = [end for end in ends if end.node.name in self._ordered]
        surplus = staying + missing + len(waiting) - room
        replaced = waiting[: max(0, len(waiting) - missing, surplus)]
        return [end for end in ends if end in replaced or now >= end.drain_at]


def orders_of(events: EventLog) -> dict[str, datetime]:
    """When replacements were ordered, by the log.

    Raises:
        StoreError: The store cannot be used.
    """
    found = events.recent(_REMEMBERED, (EVENT,))
    return {event.facts["name"]: event.at for event in reversed(found)}
