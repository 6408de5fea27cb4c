"""What the cloud has cost, will and may cost: a report made of intervals, without I/O.

Kinds of figures, and what they rest on: `to_date` is what the ledger has written down, real times
by dated prices; `linear` goes on as the month has gone so far; `committed` is a promise that the
budget keeps: more than that the machines of now cannot cost in this month.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from cluster.money.budget import Window, month_of
from cluster.money.intervals import Interval
from cluster.money.prices import GIGABYTE, MICRO, PriceTable
from ironcliw.errors import SettingsError

UNATTRIBUTED = "unattributed"
"""Who bears what no job and no deployment has used."""
LOCAL_USD = 0.0
"""What the same hours cost on the machine at home: it runs anyway, and its power is not counted."""
TABLE_HOURS = (4, 8, 12, 24)
"""Hours a day in the table of what a worker costs."""
TABLE_DAYS = 30
"""Days in that table's month."""
_LEAST_ELAPSED = timedelta(days=1)  # the first minutes of a month say little about all of it


@dataclass(frozen=True, slots=True)
class CostReport:
    """The current month; US dollars and hours.

    Attributes:
        month: As `2026-11`.
        at: When the report was made.
        to_date: By line: compute, disk, address, egress.
        total: Their sum.
        vm_hours: Hours of machines that were not stopped.
        egress_gb: Gigabytes (10**9 bytes) that left the cloud.
        linear: The month's total, if it goes on as in its days so far.
        committed: The most that the month can cost with the machines of now.
        cap: `budget.month_usd`.
        machines: How many there are or are promised now.
        by_use: `job/ID`, `deployment/NAME` or `unattributed` -> its part of compute, disk, address.
        locally: The same hours at home.
        regular: The same hours on regular machines; None where a price is not known.
    """

    month: str
    at: datetime
    to_date: Mapping[str, float]
    total: float
    vm_hours: float
    egress_gb: float
    linear: float
    committed: float
    cap: float
    machines: int
    by_use: Mapping[str, float]
    locally: float
    regular: float | None

    def document(self) -> dict[str, Any]:
        """The report for JSON, money to a hundredth of a cent."""
        document: dict[str, Any] = _rounded(asdict(self))
        return document


def report(
    intervals: Sequence[Interval],
    egress_bytes: int,
    now: datetime,
    prices: PriceTable,
    committed: float,
) -> CostReport:
    """The report of the month that `now` lies in.

    Args:
        intervals: All machines of this month.
        egress_bytes: What left the cloud in it.
        now: Aware.
        prices: For egress, and for what regular machines would cost.
        committed: `Standing.committed` of the month.
    """
    month = month_of(now)
    lines: dict[str, int] = {"compute": 0, "disk": 0, "address": 0}
    uses: defaultdict[str, int] = defaultdict(int)
    for row in intervals:
        charge = row.charge(month, now)
        for line, cost in charge.items():
            lines[line] += cost
        for user, cost in _shares(row, sum(charge.values()), now).items():
            uses[user] += cost
    lines["egress"] = prices.egress(egress_bytes)
    total = sum(lines.values())
    ran = sum((row.duration(month, now) for row in intervals), timedelta(0))
    return CostReport(
        month=str(month),
        at=now,
        to_date=_dollars(lines),
        total=total / MICRO,
        vm_hours=ran / timedelta(hours=1),
        egress_gb=egress_bytes / GIGABYTE,
        linear=total / MICRO * _growth(month, now),
        committed=committed,
        cap=prices.budget.month_usd,
        machines=sum(row.ended_at is None for row in intervals),
        by_use=_dollars(dict(sorted(uses.items(), key=lambda use: -use[1]))),
        locally=LOCAL_USD,
        regular=_regular(intervals, month, now, prices, total),
    )


def monthly_table(hourly: float) -> list[dict[str, float]]:
    """What one worker costs at 4, 8, 12 and 24 hours a day, its vCPUs and memory alone.

    A month has 30 days; it is rounded to cents, and a year is twelve such months.

    Args:
        hourly: US dollars.
    """
    rows = []
    for hours in TABLE_HOURS:
        # through the text: 0.0638 is no binary number, and half a cent must round up
        exact = Decimal(str(hourly)) * hours * TABLE_DAYS
        month = exact.quantize(Decimal("0.01"), ROUND_HALF_UP)
        rows.append({"hours_a_day": hours, "month": float(month), "year": float(12 * month)})
    return rows


def _shares(row: Interval, cost: int, now: datetime) -> dict[str, int]:
    """Who bears the cost of a machine: users by their seconds, nobody in particular the rest."""
    since = row.billed_from
    if since is None or not row.used_by:
        return {UNATTRIBUTED: cost} if cost else {}
    ran = row.duration(Window("month", since, row.ended_at or max(now, since)), now)
    used = sum(row.used_by.values())
    # users at the same time share: more seconds than there were are scaled down
    whole = max(ran.total_seconds(), used)
    if not whole:
        return {UNATTRIBUTED: cost} if cost else {}
    shares = {user: int(cost * seconds / whole) for user, seconds in row.used_by.items()}
    rest = cost - sum(shares.values())
    return shares | ({UNATTRIBUTED: rest} if rest else {})


def _growth(month: Window, now: datetime) -> float:
    """The month's length in units of its days so far."""
    return (month.end - month.start) / max(now - month.start, _LEAST_ELAPSED)


def _regular(
    intervals: Iterable[Interval], month: Window, now: datetime, prices: PriceTable, total: int
) -> float | None:
    """The total, had every machine been a regular one."""
    for row in intervals:
        if row.rates is None:
            return None
        try:
            rates = prices.rates(row.machine_type, "regular", row.disk_gb, row.rates.address > 0)
        except SettingsError:
            return None
        ran = row.duration(month, now)
        more = rates.running - row.rates.running
        total += round(more * (ran / timedelta(hours=1)))
    return total / MICRO


def _dollars(micro: Mapping[str, int]) -> dict[str, float]:
    return {name: cost / MICRO for name, cost in micro.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value
