"""What a host tells of its agents, every second."""

from __future__ import annotations

from dataclasses import dataclass, field

REPORT_SECONDS = 3.0
"""How long a host may take to say how it fares."""


@dataclass(slots=True)
class Tally:
    """Messages that were dealt with since the last report.

    Attributes:
        calls: of them.
        failures: that ended in an error which is not the sender's fault.
        seconds: that they took together, from the start of the work.
    """

    calls: int = 0
    failures: int = 0
    seconds: float = 0.0


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
    """

    name: str
    waiting: int = 0
    running: int = 0
    overdue_seconds: float = 0.0
    failed: str | None = None
    tallies: dict[str, Tally] = field(default_factory=dict)
    topics: tuple[str, ...] = ()


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
    """

    host: str
    node: str
    pid: int
    rss_bytes: int
    blocked_seconds: float = 0.0
    blocked_by: str | None = None
    agents: list[AgentReport] = field(default_factory=list)
    notice_seconds: float | None = None
