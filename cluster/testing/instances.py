"""One VM as Google sees it: what was asked for, and a timeline of its states.

A timeline is known in advance: a VM that boots without trouble and has a longest run time is
created with all its states, and an act (delete, preempt, power off) replaces what is still to come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from cluster.testing.operations import Operation

State = Literal["PROVISIONING", "STAGING", "RUNNING", "STOPPING", "TERMINATED", "DELETED"]
"""Google's states; DELETED is ours and never shown."""

DEFAULT_NOTICE_SECONDS = 30.0
"""https://cloud.google.com/compute/docs/instances/spot#preemption-process"""


@dataclass(frozen=True, slots=True)
class Timings:
    """How long Google takes, in seconds."""

    pending: float = 0.02
    """An operation waits so long before it runs."""
    provisioning: float = 0.1
    staging: float = 0.1
    boot: float = 0.0
    """From RUNNING until the guest runs its startup script."""
    refusal: float = 0.1
    """Until the operation of a refused insert is done."""
    shutdown: float = 0.0
    """From STOPPING until the power is off."""
    stopping: float = 0.1
    """From the end of the power until the VM is gone or TERMINATED; up to a minute at Google's."""


@dataclass(frozen=True, slots=True)
class End:
    """How a VM ends; times are seconds since the epoch."""

    stopping_at: float
    power_off_at: float
    over_at: float
    """When it is gone, or TERMINATED."""
    delete: bool

    @classmethod
    def of(cls, stopping_at: float, power_off_at: float, timings: Timings, *, delete: bool) -> End:
        """An end that takes Google's time after the power is off."""
        over_at = max(stopping_at, power_off_at) + timings.stopping
        return cls(stopping_at, power_off_at, over_at, delete)

    def merged(self, other: End) -> End:
        """The end when both are asked for: all of it at the sooner time."""
        first = self if self.stopping_at <= other.stopping_at else other
        return End(
            first.stopping_at,
            min(self.power_off_at, other.power_off_at),
            min(self.over_at, other.over_at),
            first.delete or other.delete,
        )


@dataclass(slots=True)
class Instance:
    """A VM; times are seconds since the epoch."""

    id: str
    name: str
    zone: str
    body: dict[str, Any]
    """The resource as it was sent, with Google's defaults filled in."""
    address: str
    external_address: str | None
    created_at: float
    boots_at: float
    """When the guest runs its startup script."""
    timeline: list[tuple[float, State]]
    creation: Operation | None = None
    told: int = 0
    """States of the timeline that were already announced."""
    end: End | None = None
    notice_at: float = math.inf
    """From when on the metadata server says that the VM is preempted."""
    notice_told: bool = False

    def status(self, now: float) -> State:
        """The state at a time."""
        passed = [state for at, state in self.timeline if at <= now]
        return passed[-1] if passed else "PROVISIONING"

    def entered(self, state: State) -> float | None:
        """When the VM comes or came into a state last; None: it does not, as far as is known."""
        times = [at for at, each in self.timeline if each == state]
        return times[-1] if times else None

    def is_powered(self, now: float) -> bool:
        """Whether its processes run."""
        return self.boots_at <= now and (self.end is None or now < self.end.power_off_at)

    def is_preempted(self, now: float) -> bool:
        """What `instance/preempted` says."""
        return now >= self.notice_at

    @property
    def is_spot(self) -> bool:
        """Whether Google may take it back."""
        return bool(self.body["scheduling"]["preemptible"])

    @property
    def machine_type(self) -> str:
        """The short name of the machine type."""
        return str(self.body["machineType"]).rpartition("/")[2]

    @property
    def metadata(self) -> dict[str, str]:
        """Its metadata attributes."""
        items = self.body.get("metadata", {}).get("items", [])
        return {str(item["key"]): str(item.get("value", "")) for item in items}

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return dict(self.body.get("labels", {}))

    @property
    def wanted_notice(self) -> float:
        """Seconds of notice that it asked for; 0 when it did not."""
        duration = self.body["scheduling"].get("preemptionNoticeDuration", {})
        return float(duration.get("seconds", 0))

    @property
    def deletes_itself(self) -> bool:
        """Whether a preemption or the end of the longest run time deletes it."""
        action: str | None = self.body["scheduling"].get("instanceTerminationAction")
        return action == "DELETE"

    def next_moment(self) -> float:
        """When its next state or notice is to be announced; infinite when none is."""
        state = self.timeline[self.told][0] if self.told < len(self.timeline) else math.inf
        return min(state, math.inf if self.notice_told else self.notice_at)

    def plan_end(self, now: float, end: End) -> None:
        """Plan how it ends, or how it ends sooner; what has begun goes on."""
        if self.end is not None and self.end.over_at > now:
            end = self.end.merged(end)
        self.end = end
        passed = [entry for entry in self.timeline if entry[0] <= now]
        coming = [entry for entry in self._boot if now < entry[0] < end.stopping_at]
        stopping: tuple[float, State] = (end.stopping_at, "STOPPING")
        self.timeline = [*passed, *coming]
        if stopping not in passed:
            self.timeline.append(stopping)
        self.timeline.append((end.over_at, "DELETED" if end.delete else "TERMINATED"))

    @property
    def _boot(self) -> list[tuple[float, State]]:
        return [entry for entry in self.timeline if entry[1] in ("STAGING", "RUNNING")]
