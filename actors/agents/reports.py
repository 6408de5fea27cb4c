"""What a host tells of its agents, every second."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

REPORT_SECONDS = 3.0
"""How long a host may take to say how it fares."""
BOUNDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
"""Seconds: how long messages took is told as counts between these."""


@dataclass(slots=True)
class Tally:
    """Messages that were dealt with since the last report.

    Attributes:
        calls: of them.
        failures: that ended in an error which is not the sender's fault.
        seconds: that they took together, from the start of the work.
        late: failures that were broken off at their deadline.
        rejected: that the agent refused as the sender's fault.
        took: how many took up to each of `BOUNDS`, and last those that took longer.
    """

    calls: int = 0
    failures: int = 0
    seconds: float = 0.0
    late: int = 0
    rejected: int = 0
    took: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def add(self, seconds: float, *, failed: bool, late: bool, rejected: bool) -> None:
        """One more."""
        self.calls += 1
        self.failures += failed
        self.seconds += seconds
        self.late += late
        self.rejected += rejected
        self.took[bisect_left(BOUNDS, seconds)] += 1


@dataclass(slots=True)
class AgentReport:
    """How an agent fares.

    Attributes:
        name: of the agent.
        waiting: messages in its mailbox.
        running: messages that it works on.
        overdue_seconds: since when the one that is longest past its time should have ended.
        failed: why the agent is of no use any more; None: it is.
        tallies: a capability's name -> what became of its messages since the last report.
        topics: those that it listens to.
        by_priority: how many of those that wait are critical, high, normal and low.
        full: messages that found no place in the mailbox since the last report.
        expired: messages whose deadline passed in the mailbox since then.
        starved: its plain methods wait for a thread, and it has none.
        unheard: messages that failed since then, and nobody waited for their answers.
    """

    name: str
    waiting: int = 0
    running: int = 0
    overdue_seconds: float = 0.0
    failed: str | None = None
    tallies: dict[str, Tally] = field(default_factory=dict)
    topics: tuple[str, ...] = ()
    by_priority: tuple[int, ...] = (0, 0, 0, 0)
    full: int = 0
    expired: int = 0
    unheard: int = 0
    starved: bool = False


@dataclass(slots=True)
class HostReport:
    """How a host fares.

    Attributes:
        host: its name.
        node: Ray's id of its machine.
        pid: of its process.
        rss_bytes: memory of the process.
        blocked_seconds: since when its event loop has not turned.
        blocked_by: the agent whose code it is in.
        agents: those that it runs; none while its event loop stands still.
        notice_seconds: its machine ends in so many seconds; None: nobody said so.
        open_circuits: capabilities that its agents do not ask for a while.
        lost_threads: those that are still in methods of agents which have stopped or failed.
        thread_wait_seconds: how long the next plain method has waited for a thread.
    """

    host: str
    node: str
    pid: int
    rss_bytes: int
    blocked_seconds: float = 0.0
    blocked_by: str | None = None
    agents: list[AgentReport] = field(default_factory=list)
    notice_seconds: float | None = None
    open_circuits: tuple[str, ...] = ()
    lost_threads: int = 0
    thread_wait_seconds: float = 0.0
