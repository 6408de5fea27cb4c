"""What the agents of the machines report, as events of the cluster: each is told once."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime

from cluster.events import EventLog
from cluster.vm.report import VmReport

# Kind of an agent's event -> kind of ours, and the sentence that its message ends. Those that are
# missing are of use at the machine only, or are seen by the controller itself.
_KINDS = {
    "mismatched": ("mismatch", "does not fit the head"),
    "join_failed": ("launch_failed", "could not join"),
    "never_joined": ("left", "has never joined"),
    "drained": ("drained", "has drained its node"),
    "drain_refused": ("drained", "was refused its drain"),
    "drain_failed": ("drained", "could not drain its node"),
    "shutdown": ("left", "shuts down"),
    "head_gone": ("left", "has not reached the head for too long"),
    "power_off": ("left", "powers off"),
}
_REMEMBERED = 500


class AgentNews:
    """Which of the reported events are new.

    Args:
        told: By machine, the time of the newest event that was told.
    """

    def __init__(self, told: dict[str, datetime] | None = None) -> None:
        self._told = told or {}

    @classmethod
    def after(cls, events: EventLog) -> AgentNews:
        """Those that the log does not hold yet.

        Raises:
            StoreError: The store cannot be used.
        """
        told: dict[str, datetime] = {}
        for event in events.recent(_REMEMBERED):
            if "reported_at" in event.facts:
                at = datetime.fromisoformat(event.facts["reported_at"])
                name = event.facts["name"]
                told[name] = max(at, told.get(name, at))
        return cls(told)

    def of(self, report: VmReport) -> Iterator[tuple[str, str, dict[str, str]]]:
        """Kind, sentence and facts of each new event of a report, oldest first."""
        for event in report.events:
            before = self._told.get(report.name)
            if before is not None and event.at <= before:
                continue
            self._told[report.name] = event.at
            if event.kind in _KINDS:
                kind, sentence = _KINDS[event.kind]
                ending = f": {event.message}" if event.message else ""
                facts = {"name": report.name, "reported_at": event.at.isoformat()}
                yield kind, f"machine {report.name} {sentence}{ending}", facts

    def forget(self, reported: Collection[str], before: datetime) -> None:
        """Drop what is remembered of machines whose report is gone.

        Args:
            reported: Names of those that have one.
            before: Machines with a newer event are remembered all the same.
        """
        self._told = {
            name: at for name, at in self._told.items() if name in reported or at >= before
        }
