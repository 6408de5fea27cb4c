"""The state of a fake cloud: its VMs, operations, faults and what happened to them.

Nothing runs by itself: `step` carries out, in the order of time, what became due since the last
call. Every request to `FakeCompute` steps first, and so does whoever boots the VMs. With a
`ManualClock` a history is therefore the same at every run.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from cluster.testing.api_errors import not_found
from cluster.testing.catalogue import Catalogue
from cluster.testing.clocks import Clock, SystemClock
from cluster.testing.fault_plan import Event, FaultPlan
from cluster.testing.faults import ClockSkew, CutLink, EventKind, Fault, Hook, Preempt
from cluster.testing.instances import DEFAULT_NOTICE_SECONDS, End, Instance, State, Timings
from cluster.testing.operations import (
    Operation,
    OperationError,
    deleted_while_creating,
    preempted_while_creating,
)

_STATE_EVENTS: dict[State, EventKind] = {
    "STAGING": "staging",
    "RUNNING": "running",
    "STOPPING": "stopping",
    "TERMINATED": "terminated",
    "DELETED": "deleted",
}
# Google's timestamps are in the time of its headquarters
_PACIFIC = timezone(timedelta(hours=-7))


@dataclass(frozen=True, slots=True)
class Call:
    """A request that reached the server; `at` is in seconds since the epoch."""

    verb: str
    path: str
    query: dict[str, str]
    at: float


class World:
    """A cloud of one project. Its methods may be called from any thread.

    Args:
        clock: The time; by default the system's.
        catalogue: What can be had.
        timings: How long things take.
        faults: What goes wrong.
        address: The internal address of the n-th VM, counted from 0.
        largest_page: The most resources on a page of a list, whatever is asked for.

    Attributes:
        lock: Hold it to see or do several things at once.
        calls: The requests that reached the server.
        events: What happened, in order.
        hooks: What the faults of kind `hook` call, by label.
        instances: The VMs that are there, by zone and name.
        operations: By zone and name.
        console: What an instance wrote on its serial console; set by whoever boots the VMs.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        catalogue: Catalogue | None = None,
        timings: Timings | None = None,
        faults: Iterable[Fault] = (),
        address: Callable[[int], str] = lambda count: f"10.128.0.{2 + count % 250}",
        largest_page: int = 500,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.catalogue = catalogue or Catalogue()
        self.timings = timings or Timings()
        self.address = address
        self.largest_page = largest_page
        self.lock = threading.RLock()
        self.calls: list[Call] = []
        self.events: list[Event] = []
        self.hooks: dict[str, Callable[[Event | None], None]] = {}
        self.instances: dict[tuple[str, str], Instance] = {}
        self.operations: dict[tuple[str, str], Operation] = {}
        self.console: Callable[[Instance], bytes] = lambda instance: b""
        self._now = self.clock()
        self._is_stepping = False
        self.faults = FaultPlan(faults, self._now)
        # a number of its own among all worlds of a machine: by it the processes of a VM are found
        self._last_id = 10**18 + secrets.randbelow(8 * 10**18)

    @property
    def now(self) -> float:
        """The time up to which everything has happened, seconds since the epoch."""
        return self._now

    def stamp(self, at: float) -> str:
        """A time as Google writes it, by Google's clock, which may be wrong."""
        moment = datetime.fromtimestamp(at + self.skew(), UTC).astimezone(_PACIFIC)
        return moment.isoformat(timespec="milliseconds")

    def skew(self) -> float:
        """Seconds by which Google's clock is ahead."""
        with self.lock:
            return sum(fault.by for fault in self.faults.all_active(ClockSkew, self._now))

    def step(self) -> float:
        """Let everything happen that is due, in the order of its time; returns the time."""
        with self.lock:
            if self._is_stepping:
                # an act within a step, which happens at the moment that the step has come to
                return self._now
            self._is_stepping = True
            try:
                until = max(self.clock(), self._now)
                while (moment := self._next_moment()) <= until:
                    self._now = max(self._now, moment)
                    self._happen()
                self._now = until
                return until
            finally:
                self._is_stepping = False

    def _next_moment(self) -> float:
        moments = (instance.next_moment() for instance in self.instances.values())
        return min(self.faults.next_act(), min(moments, default=math.inf))

    def _happen(self) -> None:
        for fault, cause in self.faults.due(self._now):
            if isinstance(fault, Hook):
                self.hooks[fault.label](cause)
            else:
                self._preempt_all(fault, cause)
        for instance in list(self.instances.values()):
            self._tell(instance)

    def _tell(self, instance: Instance) -> None:
        """Announce the states that an instance has entered, and its preemption."""
        if instance.is_preempted(self._now) and not instance.notice_told:
            instance.notice_told = True
            self.happened("notice", instance)
        while instance.told < len(instance.timeline):
            at, state = instance.timeline[instance.told]
            if at > self._now:
                return
            instance.told += 1
            if state == "DELETED":
                del self.instances[instance.zone, instance.name]
            if state in _STATE_EVENTS:
                self.happened(_STATE_EVENTS[state], instance)

    def happened(self, kind: EventKind, instance: Instance) -> None:
        """Record an event of a VM; faults may wait for it."""
        self.record(kind, instance.zone, instance.name)

    def record(self, kind: EventKind, zone: str, name: str) -> None:
        """Record an event of what may not be a VM (yet)."""
        with self.lock:
            event = Event(self._now, kind, zone, name)
            self.events.append(event)
            self.faults.saw(event)

    def add(self, fault: Fault) -> None:
        """Add a fault; its `at` counts from now."""
        with self.lock:
            self.faults.add(fault, self.step())
            self.step()

    def find(self, zone: str, name: str) -> Instance:
        """The VM of a zone and name.

        Raises:
            ApiError: 404, there is none.
        """
        with self.lock:
            if (zone, name) not in self.instances:
                raise not_found(self.resource(zone, name))
            return self.instances[zone, name]

    def named(self, name: str) -> Instance | None:
        """The VM of a name now, wherever it is."""
        with self.lock:
            self.step()
            found = [each for each in self.instances.values() if each.name == name]
            return found[0] if found else None

    def resource(self, zone: str, name: str) -> str:
        """The path of a VM from `projects/` on."""
        return f"projects/{self.catalogue.project}/zones/{zone}/instances/{name}"

    def link_is_cut(self, instance: Instance) -> bool:
        """Whether a VM's network is gone now."""
        with self.lock:
            now = self.step()
            return self.faults.active(CutLink, now, instance.zone, instance.name) is not None

    def new_id(self) -> str:
        """A number that no resource has yet."""
        with self.lock:
            self._last_id += 1 + secrets.randbelow(1000)
            return str(self._last_id)

    def operate(
        self,
        kind: str,
        zone: str,
        name: str,
        seconds: float,
        *,
        error: OperationError | None = None,
        user: str = "worker-launcher@test-project.iam.gserviceaccount.com",
    ) -> Operation:
        """Add an operation that takes so many seconds."""
        with self.lock:
            there = self.instances.get((zone, name))
            number = self.new_id()
            operation = Operation(
                id=number,
                name=f"operation-{int(self._now * 1000)}-{number[-10:]}",
                zone=zone,
                kind=kind,
                target=name,
                target_id=there.id if there else self.new_id(),
                user=user,
                inserted_at=self._now,
                starts_at=self._now + min(seconds, self.timings.pending),
                ends_at=self._now + seconds,
                error=error,
            )
            self.operations[zone, operation.name] = operation
            return operation

    def end(self, instance: Instance, *, stopping_at: float, off_at: float, delete: bool) -> None:
        """Plan a VM's end. One that does not run yet fails its insert."""
        with self.lock:
            creation = instance.creation
            if creation is not None and creation.ends_at > self._now:
                creation.ends_at = self._now
                creation.error = deleted_while_creating(self.resource(instance.zone, instance.name))
            end = End.of(stopping_at, off_at, self.timings, delete=delete)
            instance.plan_end(self._now, end)

    def preempt(self, instance: Instance, notice: float | None = None) -> None:
        """Take a VM back.

        Args:
            instance: One that is stopping or stopped already is left alone.
            notice: Seconds from the metadata server's word until the power is off; 0: no word.
                None: what the VM asked for, or 30. A VM that asked for a notice runs on until its
                end; another one is STOPPING from the first moment.
        """
        with self.lock:
            now = self.step()
            state = instance.status(now)
            if state in ("STOPPING", "TERMINATED", "DELETED"):
                return
            seconds = instance.wanted_notice or DEFAULT_NOTICE_SECONDS
            seconds = seconds if notice is None else notice
            if state != "RUNNING":
                seconds = 0.0
            if seconds:
                instance.notice_at = now
            off_at = now + seconds
            stopping_at = off_at if instance.wanted_notice else now
            self.end(
                instance, stopping_at=stopping_at, off_at=off_at, delete=instance.deletes_itself
            )
            if state != "RUNNING" and instance.creation is not None:
                instance.creation.error = preempted_while_creating(instance.name)
            zone, name = instance.zone, instance.name
            self.operate("compute.instances.preempted", zone, name, 0.0, user="system")
            self.happened("preempted", instance)
            self.step()

    def _preempt_all(self, fault: Preempt, cause: Event | None) -> None:
        for instance in list(self.instances.values()):
            key = (instance.zone, instance.name)
            wanted = key == (cause.zone, cause.name) if cause else fault.matches(*key)
            if wanted and instance.is_spot:
                self.preempt(instance, fault.notice)

    def power_off(self, instance: Instance) -> None:
        """The guest turns its power off: TERMINATED, whatever the termination action says."""
        with self.lock:
            now = self.step()
            if instance.is_powered(now):
                self.happened("power_off", instance)
                self.end(instance, stopping_at=now, off_at=now, delete=False)
                self.step()
