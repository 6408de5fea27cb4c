"""How the cloud part of a cluster stands, for `ironcliw status`: reasons that Ray does not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cluster.events import Event, EventLog
from cluster.launch.zone_choice import load_book
from cluster.money.ledger import Ledger, Standing
from cluster.money.prices import PriceTable
from ironcliw.settings import Settings
from ironcliw.store import Store

_EVENTS = 8


@dataclass(frozen=True, slots=True)
class CloudStatus:
    """What the store knows; nothing is asked of the cloud or of Ray.

    Attributes:
        machines: Names and zones of those that are there or ordered.
        resting: Zones that are not asked now, and why.
        standings: Of the day and the month.
        events: The newest, newest first.
    """

    machines: Mapping[str, str]
    resting: Mapping[str, str]
    standings: Sequence[Standing]
    events: Sequence[Event]

    def lines(self) -> list[str]:
        """For a person."""
        machines = ", ".join(f"{name} ({zone})" for name, zone in self.machines.items())
        lines = [f"machines: {machines or 'none'}"]
        for one in self.standings:
            cap = "no cap" if one.cap is None else f"cap {one.cap:.2f}"
            money = f"{one.spent:.2f} USD spent, {one.committed:.2f} committed, {cap}"
            lines.append(f"{one.window.period} {one.window}: {money}")
        lines += [f"{zone}: {reason}" for zone, reason in self.resting.items()]
        lines += [
            f"{event.at:%m-%d %H:%M:%SZ} {event.kind}: {event.message}" for event in self.events
        ]
        return lines

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
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
            "events": [
                {"at": event.at.isoformat(), "kind": event.kind, "message": event.message}
                for event in self.events
            ],
        }


def cloud_status(
    settings: Settings, *, now: datetime | None = None, events: int = _EVENTS
) -> CloudStatus:
    """Read it from the store.

    Raises:
        StoreError: The store cannot be used; one that no head has used yet has no tables.
    """
    moment = now or datetime.now(UTC)
    budget = settings.budget
    with Store(settings.store_url) as store:
        ledger = Ledger(store, PriceTable.of(budget), budget, lambda: moment)
        rows = ledger.intervals(moment)
        return CloudStatus(
            machines={row.name: row.zone for row in rows if row.ended_at is None},
            resting=load_book(store, settings.cloud).reasons(moment),
            standings=ledger.standing(),
            events=EventLog(store).recent(events),
        )
