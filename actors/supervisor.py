"""What is done about an agent that failed, and about a host that does not behave. Pure.

An agent is started again after a pause that grows; after too many failures it gets a process of its
own, where it can do no harm to others; after too many there it is left alone, and people are told.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from actors.agents.reports import AgentReport, HostReport
from ironcliw.errors import SettingsError

BLOCKED_SECONDS = 5.0
"""An event loop that has not turned for so long is not waited for."""
OVERDUE_SECONDS = 5.0
"""A message that is at it so long after its time was up will not end."""
LOST_THREADS = 8
"""Of the threads of a process: when so many hang, its agents are better off in a new one."""


STARVED_SECONDS = 120.0
"""A plain method that has waited so long for a thread is begun in another process."""


class Step(StrEnum):
    """What to do about an agent."""

    RESTART = "restart"
    ISOLATE = "isolate"
    """Start it again in a process of its own."""
    GIVE_UP = "give_up"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often and how soon a failed agent is started again.

    Attributes:
        restarts: so many within `within_seconds` are too many.
        within_seconds: what is older is forgiven.
        first_pause: seconds before the second start; before the first there is none.
        factor: by which the pause grows.
        longest_pause: seconds.
    """

    restarts: int = 5
    within_seconds: float = 120.0
    first_pause: float = 0.2
    factor: float = 2.0
    longest_pause: float = 30.0

    def __post_init__(self) -> None:
        if self.restarts < 1:
            raise SettingsError(f"restarts is {self.restarts}; give 1 or more")
        for name in ("within_seconds", "first_pause", "factor", "longest_pause"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise SettingsError(f"{name} is {value}; give a finite number above 0")

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (1: the first)."""
        if failures <= 1:
            return 0.0
        # the exponent is bounded: a float overflows at 2**1024
        return min(self.first_pause * self.factor ** min(failures - 2, 60), self.longest_pause)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and after how many seconds."""

    step: Step
    pause: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """Remembers who failed when.

    Args:
        policy: how patient it is.
    """

    policy: RestartPolicy = field(default_factory=RestartPolicy)
    _failures: dict[str, deque[float]] = field(default_factory=dict)

    def failed(self, agent: str, now: float, *, isolated: bool) -> Decision:
        """What to do about an agent that has just failed.

        Args:
            agent: its name.
            now: of any clock, the same at each call.
            isolated: it has a process of its own already.
        """
        times = self._failures.setdefault(agent, deque())
        times.append(now)
        while times[0] <= now - self.policy.within_seconds:
            times.popleft()
        if len(times) <= self.policy.restarts:
            return Decision(Step.RESTART, self.policy.pause(len(times)))
        times.clear()
        return Decision(Step.GIVE_UP if isolated else Step.ISOLATE)

    def forget(self, agent: str) -> None:
        """Somebody stopped it, or started it by hand."""
        self._failures.pop(agent, None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a host's report calls for.

    Attributes:
        kill: the process must go, and why; None: it may stay.
        to_blame: agents that count as failed: name -> why.
        leave: why its agents must move, after which the process ends; None: they may stay.
        move: agents that move, while the others and the process stay.
    """

    kill: str | None = None
    to_blame: dict[str, str] = field(default_factory=dict)
    leave: str | None = None
    move: tuple[str, ...] = ()


def judge(report: HostReport, *, alone: bool) -> Verdict:
    """What to do after a report.

    Args:
        report: of a host.
        alone: its one agent has it to itself, so that whatever hangs can be killed.
    """
    if report.blocked_seconds >= BLOCKED_SECONDS:
        # whose code it is in is known; if it is nobody's, nobody is to blame
        by = report.blocked_by
        stands = f"its event loop has stood still for {report.blocked_seconds:.1f} s"
        return Verdict(stands, {by: "it blocks the event loop of its process"} if by else {})
    failed = {one.name: why for one in report.agents if (why := _why_failed(one))}
    if alone and failed:
        return Verdict(next(iter(failed.values())), failed)
    leave = None
    if report.lost_threads >= LOST_THREADS:
        leave = f"{report.lost_threads} of its threads hang in methods of agents that are gone"
    move: tuple[str, ...] = ()
    if leave is None and report.thread_wait_seconds >= STARVED_SECONDS:
        # those that have the threads may take as long as it takes
        starved = (one.name for one in report.agents if one.starved)
        move = tuple(name for name in starved if name not in failed)
    return Verdict(None, failed, leave, move)


def to_blame(report: HostReport | None, names: list[str]) -> list[str]:
    """Whom to blame for a process that ended without a word.

    Those that worked on something when it was last heard of; if nobody did, nobody is to blame
    where there are several, since the cause lies as likely outside.
    """
    if len(names) == 1:
        return names
    busy = {one.name for one in report.agents if one.running} if report else set()
    return [name for name in names if name in busy]


def _why_failed(report: AgentReport) -> str | None:
    if report.failed is not None:
        return report.failed
    if report.overdue_seconds >= OVERDUE_SECONDS:
        return f"it hangs: a message is {report.overdue_seconds:.1f} s past its time"
    return None
