"""What the agents of a cluster have done, counted since the control actor began. Pure.

Hosts report every second what has happened since; here it is added up, for `actors.metrics`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from actors.agents.last_restart import Cause
from actors.agents.messages import PRIORITIES
from actors.agents.reports import BOUNDS, AgentReport, HostReport
from actors.registry import AgentStatus, Entry

Outcome = Literal["ok", "failed", "late", "rejected", "full", "expired"]
"""full: there was no place in the mailbox. expired: its deadline passed in there. late: it was
broken off at its deadline. rejected: the sender's fault, as the agent says."""
_TOPIC = "topic"


@dataclass(slots=True)
class Figures:
    """Counts, none of which ever falls.

    Attributes:
        messages: by capability and outcome; "" stands for messages that never reached one.
        took: capability -> how many of its messages took up to each of `BOUNDS`, and longer.
        restarts: by cause.
        dead_letters: durable messages that were given up.
        unheard: messages that failed and whose sender waited for no answer.
    """

    messages: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    took: dict[str, list[int]] = field(default_factory=dict)
    restarts: Counter[Cause] = field(default_factory=Counter)
    dead_letters: int = 0
    unheard: int = 0
    _circuits: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, report: HostReport) -> None:
        """Take in what a host tells."""
        self._circuits[report.host] = report.open_circuits
        for one in report.agents:
            self._add_agent(one)

    def copy(self) -> Figures:
        """The counts as they are now; it does not grow with these."""
        return replace(
            self, messages=self.messages.copy(), took=dict(self.took), restarts=self.restarts.copy()
        )

    def forget(self, host: str) -> None:
        """A host has ended: it asks nobody any more."""
        self._circuits.pop(host, None)

    def open_circuits(self, own: Iterable[str] = ()) -> Counter[str]:
        """Capability -> how many processes do not ask it for a while.

        Args:
            own: what this process does not ask.
        """
        return Counter(name for names in (*self._circuits.values(), own) for name in names)

    def _add_agent(self, report: AgentReport) -> None:
        self.messages["", "full"] += report.full
        self.messages["", "expired"] += report.expired
        self.unheard += report.unheard
        for name, tally in report.tallies.items():
            # topics are named by whoever publishes: there may be any number of them
            shown = _TOPIC if name.startswith(f"{_TOPIC} ") else name
            outcomes: dict[Outcome, int] = {
                "ok": tally.calls - tally.failures - tally.rejected,
                "failed": tally.failures - tally.late,
                "late": tally.late,
                "rejected": tally.rejected,
            }
            for outcome, count in outcomes.items():
                self.messages[shown, outcome] += count
            known = self.took.setdefault(shown, [0] * (len(BOUNDS) + 1))
            self.took[shown] = [sum(pair) for pair in zip(known, tally.took, strict=True)]


@dataclass(frozen=True, slots=True)
class Standing:
    """How the agents stand now.

    Attributes:
        agents: how many there are, by status.
        waiting: messages in mailboxes, by priority.
        on_the_way: durable messages that are not done.
        open_circuits: capability -> how many processes do not ask it.
    """

    agents: dict[str, int]
    waiting: dict[str, int]
    on_the_way: int
    open_circuits: dict[str, int]

    @classmethod
    def of(cls, entries: Iterable[Entry], on_the_way: int, circuits: Counter[str]) -> Standing:
        """Add up the entries of a registry."""
        agents = {status.value: 0 for status in AgentStatus}
        waiting = [0] * len(PRIORITIES)
        for entry in entries:
            agents[entry.status.value] += 1
            waiting = [sum(pair) for pair in zip(waiting, entry.by_priority, strict=True)]
        by_name = dict(zip(PRIORITIES, waiting, strict=True))
        return cls(agents, by_name, on_the_way, dict(circuits))
