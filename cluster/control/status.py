"""How the cloud part of a cluster stands, for `ironcliw status`: reasons that Ray does not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cluster.control.report import ControllerReport, read_report
from cluster.events import Event, EventLog
from cluster.launch.zone_choice import load_book
from cluster.money.ledger import Ledger, Standing
from cluster.money.prices import PriceTable
from ironcliw.settings import Settings
from ironcliw.store import Store

_EVENTS = 8
_REFUSALS = 3
_SILENT_SECONDS = 30.0
"""A controller that has not reported for so long does not run."""
_REFUSAL_KINDS = ("refused", "launch_failed")
_RECENT = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class CloudStatus:
    """What store and controller have written down; nothing is asked of the cloud or of Ray.

    Attributes:
        at: When it was read.
        controller: Its last report; None: it has made none.
        machines: Names and zones of those that are there or ordered, by the ledger.
        refusals: Why machines did not come, in the last hour, newest first.
        resting: Zones that are not asked now, and why.
        standings: Of the day and the month.
        events: The newest, newest first.
    """

    at: datetime
    controller: ControllerReport | None
    machines: Mapping[str, str]
    refusals: Sequence[Event]
    resting: Mapping[str, str]
    standings: Sequence[Standing]
    events: Sequence[Event]

    @property
    def is_looked_after(self) -> bool:
        """Whether the controller has reported a moment ago."""
        report = self.controller
        return report is not None and (self.at - report.at).total_seconds() <= _SILENT_SECONDS

    def lines(self) -> list[str]:
        """For a person."""
        lines = [self._controller_line(), *self._error_lines(), *self._worker_lines()]
        for one in self.standings:
            cap = "no cap" if one.cap is None else f"cap {one.cap:.2f}"
            money = f"{one.spent:.2f} USD spent, {one.committed:.2f} committed, {cap}"
            lines.append(f"{one.window.period} {one.window}: {money}")
        lines += [f"zone {zone} rests: {reason}" for zone, reason in self.resting.items()]
        lines += [f"not launched: {_line(event)}" for event in self.refusals]
        told = {event.message for event in self.refusals}
        lines += [_line(event) for event in self.events if event.message not in told]
        return lines

    def _controller_line(self) -> str:
        report = self.controller
        if report is None:
            return (
                "controller: has not reported yet; its log is logs/cluster.control.controller.log"
            )
        if not self.is_looked_after:
            return (
                f"controller: SILENT since {report.at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}, nobody "
                "looks after the machines; see logs/cluster.control.controller.log"
            )
        cloud = "cloud answers" if report.workers is not None else "CLOUD DOES NOT ANSWER"
        head = "head answers" if report.reaches_head else "HEAD DOES NOT ANSWER"
        return f"controller: alive, {cloud}, {head}"

    def _error_lines(self) -> list[str]:
        report = self.controller
        if report is None or not self.is_looked_after:
            return []
        errors = {"cloud": report.cloud_error, "head": report.head_error}
        return [f"{who} error: {error}" for who, error in errors.items() if error]

    def _worker_lines(self) -> list[str]:
        report = self.controller
        if report is None or report.workers is None or not self.is_looked_after:
            machines = [f"{name} ({zone}): by the ledger" for name, zone in self.machines.items()]
        else:
            listed = {worker.name for worker in report.workers}
            machines = [str(worker) for worker in report.workers] + [
                f"{name} ({zone}): ordered, or just gone"
                for name, zone in self.machines.items()
                if name not in listed
            ]
        return [f"worker {one}" for one in machines] or ["workers: none"]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        report = self.controller
        workers = None if report is None else report.workers
        return {
            "controller_alive": self.is_looked_after,
            "controller_at": None if report is None else report.at.isoformat(),
            "cloud_error": None if report is None else report.cloud_error or None,
            "head_error": None if report is None else report.head_error or None,
            "workers": None if workers is None else [asdict(worker) for worker in workers],
            "machines": dict(self.machines),
            "resting_zones": dict(self.resting),
            "budget": [
                {
                    "period": one.window.period,
                    "spent_usd": one.spent,
                    "committed_usd": one.committed,
                    "cap_usd": one.cap,
                }
                for one in self.standings
            ],
            "refusals": [_document(event) for event in self.refusals],
            "events": [_document(event) for event in self.events],
        }


def cloud_status(
    settings: Settings, *, now: datetime | None = None, events: int = _EVENTS
) -> CloudStatus:
    """Read it from the store.

    Raises:
        StoreError: The store cannot be used.
    """
    moment = now or datetime.now(UTC)
    budget = settings.budget
    with Store(settings.store_url) as store:
        store.migrate()
        ledger = Ledger(store, PriceTable.of(budget), budget, lambda: moment)
        rows = ledger.intervals(moment)
        log = EventLog(store)
        refusals = log.recent(_REFUSALS, _REFUSAL_KINDS)
        return CloudStatus(
            at=moment,
            controller=read_report(settings.state_dir),
            machines={row.name: row.zone for row in rows if row.ended_at is None},
            resting=load_book(store, settings.cloud).reasons(moment),
            standings=ledger.standing(),
            refusals=[event for event in refusals if moment - event.at <= _RECENT],
            events=log.recent(events),
        )


def _line(event: Event) -> str:
    return f"{event.at:%m-%d %H:%M:%SZ} {event.kind}: {event.message}"


def _document(event: Event) -> dict[str, Any]:
    return {"at": event.at.isoformat(), "kind": event.kind, "message": event.message}
