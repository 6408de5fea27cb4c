"""What a worker VM does next: a state machine without I/O, and the check of its versions.

Shipped to the VM together with `agent.py`, so the standard library must do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DEFAULT_NOTICE_SECONDS = 30
"""What Spot gives without being asked: the time between power button and power cut. Source:
https://cloud.google.com/compute/docs/instances/spot#preemption-process"""
NOTICE_ATTRIBUTE = "ironcliw-notice-seconds"
"""Metadata attribute of a VM: how long its preemption notice is."""
HEAD_GONE = "head_gone"
# The drain's deadline is so long before the raylet's end; clocks are read to the millisecond.
_DRAIN_LEAD_SECONDS = 0.5


class Phase(StrEnum):
    """Where a VM is in its life; it never goes back."""

    JOINING = "joining"
    RUNNING = "running"
    LEAVING = "leaving"
    ENDING = "ending"
    OFF = "off"


class Kind(StrEnum):
    """What happens to a VM."""

    PREEMPTED = "preempted"
    MISMATCHED = "mismatched"
    SHUTDOWN = "shutdown"
    HEAD_ANSWERED = "head_answered"
    JOINED = "joined"
    RAY_EXITED = "ray_exited"
    RAYLET_GONE = "raylet_gone"
    DRAIN_ANSWERED = "drain_answered"
    DRAIN_FAILED = "drain_failed"
    HOOKS_PENDING = "hooks_pending"
    TICK = "tick"


class Action(StrEnum):
    """What the shell is told to do."""

    START_RAY = "start_ray"
    WRITE_NOTICE = "write_notice"
    DRAIN = "drain"
    STOP_RAYLET = "stop_raylet"
    POWER_OFF = "power_off"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; `names` are the hooks that are not done yet."""

    kind: Kind
    message: str = ""
    accepted: bool = True
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Instruction:
    """Something to do; `seconds` are the time to a deadline."""

    action: Action
    message: str = ""
    seconds: float = 0.0
    report: str = ""


@dataclass(frozen=True, slots=True)
class Timing:
    """Spans of a VM's life, in seconds."""

    notice: float = DEFAULT_NOTICE_SECONDS
    """From the preemption's notice to the power-off; 120 where the VM was created with that."""
    margin: float = 4.0
    """The raylet is stopped so long before the end."""
    last_margin: float = 2.0
    """The same while a hook is still busy: its last two seconds are worth more."""
    farewell: float = 10.0
    """Given to hooks when the VM leaves without being forced to."""
    head_gone: float = 600.0
    """Without an answer of the head for so long the VM leaves: nobody else will end its bill."""
    join: float = 300.0
    """A VM that has not joined by then leaves."""
    retry: float = 5.0
    """Between two attempts to join."""
    drain_retry: float = 1.0
    """Between two attempts to reach the head for the drain."""

    def drain_span(self, left: float) -> float:
        """How far ahead the drain's deadline is, when `left` seconds are left to the VM's end.

        It must have passed when the raylet gets SIGTERM. Only then does the raylet (Ray 2.60,
        `raylet/main.cc`) give preemption as its node's cause of death, which makes the restarts of
        actors free and marks their errors as `preempted`; before it, it is an ordinary end.
        """
        return max(0.1, left - self.margin - _DRAIN_LEAD_SECONDS)


class Lifecycle:
    """Decides what a VM does next: events in, instructions out, no I/O, no clock of its own.

    Promises: one drain at most is under way or answered; after one notice there is no other; the
    last instruction is POWER_OFF, and it comes at the deadline at the latest.
    """

    def __init__(self, timing: Timing, now: float) -> None:
        self.phase = Phase.JOINING
        self.deadline: float | None = None
        self._timing = timing
        self._began = self._head_seen = now
        self._reason = ""
        self._ray_runs = False
        self._start_at = now
        self._joined = False
        self._drain_wanted = False
        self._drain_at = now
        self._pending: tuple[str, ...] = ()

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take one event in; `now` is a monotonic clock in seconds."""
        if self.phase is Phase.OFF:
            return []
        return [*self._take(event, now), *self._due(now)]

    def _take(self, event: Event, now: float) -> list[Instruction]:
        match event.kind:
            case Kind.PREEMPTED:
                return self._leave(event.kind, event.message, self._timing.notice, now)
            case Kind.MISMATCHED | Kind.SHUTDOWN:
                return self._leave(event.kind, event.message, self._timing.farewell, now)
            case Kind.HEAD_ANSWERED:
                self._head_seen = now
            case Kind.JOINED if not self._joined:
                self._joined = True
                if self.phase is Phase.JOINING:
                    self.phase = Phase.RUNNING
                return [_report("joined", event.message)]
            case Kind.RAY_EXITED | Kind.RAYLET_GONE:
                return self._ray_is_gone(event, now)
            case Kind.DRAIN_ANSWERED | Kind.DRAIN_FAILED | Kind.HOOKS_PENDING:
                return self._handing_over(event, now)
        return []

    def _ray_is_gone(self, event: Event, now: float) -> list[Instruction]:
        if self.phase is not Phase.JOINING:
            return self._end(self._reason or event.message)
        if event.kind is Kind.RAYLET_GONE:
            return []  # `ray start` ends on its own then, and says why
        self._ray_runs = False
        self._start_at = now + self._timing.retry
        return [_report("join_failed", event.message)]

    def _handing_over(self, event: Event, now: float) -> list[Instruction]:
        match event.kind:
            case Kind.DRAIN_ANSWERED:
                return [_report("drained" if event.accepted else "drain_refused", event.message)]
            case Kind.DRAIN_FAILED:
                self._drain_wanted, self._drain_at = True, now + self._timing.drain_retry
                return [_report("drain_failed", event.message)]
        done = [name for name in self._pending if name not in event.names]
        self._pending = event.names
        return [_report("hook_done", name) for name in done]

    def _leave(self, cause: str, why: str, seconds: float, now: float) -> list[Instruction]:
        if self.phase not in (Phase.JOINING, Phase.RUNNING):
            return []
        self.phase = Phase.LEAVING
        self.deadline = now + seconds
        self._reason = f"{cause}: {why}" if why else str(cause)
        # there is nobody to ask for a drain when the head is gone
        self._drain_wanted, self._drain_at = cause != HEAD_GONE, now
        usable = max(0.0, seconds - self._timing.last_margin)
        told = [_report(cause, why), Instruction(Action.WRITE_NOTICE, self._reason, usable)]
        # a VM whose Ray never ran has nothing to hand over
        return told if self._ray_runs else [*told, *self._end(self._reason)]

    def _due(self, now: float) -> list[Instruction]:
        """What is due by the clock alone."""
        timing, left = self._timing, 0.0 if self.deadline is None else self.deadline - now
        match self.phase:
            case Phase.JOINING if now - self._began >= timing.join:
                return [_report("never_joined"), *self._end("did not join in time")]
            case Phase.JOINING | Phase.RUNNING if now - self._head_seen >= timing.head_gone:
                silent = f"no answer from the head for {now - self._head_seen:.0f} s"
                return self._leave(HEAD_GONE, silent, timing.farewell, now)
            case Phase.JOINING if not self._ray_runs and now >= self._start_at:
                self._ray_runs = True
                return [Instruction(Action.START_RAY)]
            case Phase.LEAVING if left <= (timing.last_margin if self._pending else timing.margin):
                self.phase = Phase.ENDING
                stopped = _report("raylet_stopped", ", ".join(self._pending))
                return [Instruction(Action.STOP_RAYLET, seconds=left), stopped]
            case Phase.LEAVING if self._drain_wanted and self._joined and now >= self._drain_at:
                self._drain_wanted = False
                return [Instruction(Action.DRAIN, self._reason, timing.drain_span(left))]
            case Phase.ENDING if left <= 0:
                return self._end(self._reason)
        return []

    def _end(self, why: str) -> list[Instruction]:
        self.phase = Phase.OFF
        return [_report("power_off", why), Instruction(Action.POWER_OFF, why)]


def _report(kind: str, message: str = "") -> Instruction:
    return Instruction(Action.REPORT, message, report=kind)
