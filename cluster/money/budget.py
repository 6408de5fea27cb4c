"""Decides whether a machine may be launched: pure arithmetic, no clock and no store.

The rule: in every day and month that the machine could run in, what is spent there, plus the most
that every machine there is or was promised can still cost, plus the most that this one can cost,
stays within the cap. The cloud deletes a machine after its `max_run` without being asked, so the
bound holds whoever is away. A machine that stops itself keeps its disk until somebody deletes it,
so the disk of each is counted to the end of every day and month.

Windows are calendar days and months in UTC. Money is in micro-dollars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from cluster.money.prices import GIGABYTE, MICRO, PriceTable
from ironcliw.errors import SettingsError
from ironcliw.setting_sections import BudgetSettings, CloudSettings

SKEW_SECONDS = 90
"""How wrong the time of a decision may be. The ledger asks for a listing of the last 60 seconds, by
which it knows the cloud's time; a clock that jumps by more in between is noticed."""
MARGIN_SECONDS = 300
"""What a machine may cost beyond its `max_run`: the deletion begins up to 30 s late (limit-vm-
runtime in Google's documentation), shutting down takes up to 120 s, and the rest is reserve."""

_HOUR = 3_600_000_000  # microseconds
_LONGEST_MONTH = timedelta(days=31)


@dataclass(frozen=True, slots=True)
class Window:
    """A calendar day or month; its end is the first moment that is not in it."""

    period: Literal["day", "month"]
    start: datetime
    end: datetime

    def __str__(self) -> str:
        return self.start.strftime("%Y-%m-%d" if self.period == "day" else "%Y-%m")


def day_of(moment: datetime) -> Window:
    """The day in UTC that a moment lies in."""
    start = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return Window("day", start, start + timedelta(days=1))


def month_of(moment: datetime) -> Window:
    """The month in UTC that a moment lies in."""
    start = day_of(moment).start.replace(day=1)
    return Window("month", start, (start + timedelta(days=32)).replace(day=1))


@dataclass(frozen=True, slots=True)
class Commitment:
    """The most that a machine costs, spread over time.

    Attributes:
        hourly: Micro-dollars an hour of its vCPUs, memory and address.
        until: They cost nothing after it; None: nobody knows when that is.
        since: They cost nothing before it.
        kept_hourly: Micro-dollars an hour of its disk.
        kept_until: The disk is deleted by then; None: nobody knows.
        longest: It runs at most so long within `since` and `until`; None: all of it.
    """

    hourly: int
    until: datetime | None
    since: datetime
    kept_hourly: int = 0
    kept_until: datetime | None = None
    longest: timedelta | None = None

    def cost(self, window: Window) -> int:
        """The most that falls into a window, in micro-dollars, rounded up."""
        running = overlap(window, self.since, self.until)
        if self.longest is not None:
            running = min(running, self.longest)
        kept = overlap(window, self.since, self.kept_until)
        return price(self.hourly, running) + price(self.kept_hourly, kept)


def overlap(window: Window, since: datetime, until: datetime | None) -> timedelta:
    """How much of a stretch of time lies within the window; `until` None: it has no end."""
    end = window.end if until is None else min(until, window.end)
    return max(end - max(since, window.start), timedelta(0))


def price(hourly: int, duration: timedelta) -> int:
    """Micro-dollars for a duration, rounded up."""
    return -(-hourly * (duration // timedelta(microseconds=1)) // _HOUR)


@dataclass(frozen=True, slots=True)
class Caps:
    """What may be spent: micro-dollars in a month and in a day, and bytes of egress in a month."""

    month: int
    day: int | None = None
    egress_bytes: int | None = None

    @classmethod
    def of(cls, budget: BudgetSettings) -> Caps:
        """The caps of the settings, rounded down."""
        day = None if budget.day_usd is None else int(budget.day_usd * MICRO)
        return cls(int(budget.month_usd * MICRO), day, int(budget.egress_month_gb * GIGABYTE))

    def of_period(self, period: Literal["day", "month"]) -> int | None:
        """The cap of a day or a month; None: there is none."""
        return self.month if period == "month" else self.day


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to a wish for a machine.

    Attributes:
        granted: Whether it may be launched.
        reason: Why not, as a sentence; empty when granted.
        committed: US dollars that the current month can cost at the most, with this machine if it
            was granted and without it if not.
    """

    granted: bool
    reason: str
    committed: float


def admit(
    now: datetime,
    caps: Caps,
    spent: Callable[[Window], int],
    live: Sequence[Commitment],
    wanted: Commitment,
    egress_bytes: int = 0,
) -> Admission:
    """Whether a machine may be launched, by the rule at the top of the module.

    Args:
        now: By the cloud's clock, as well as it is known.
        caps: What the settings allow.
        spent: Micro-dollars in a window that are not part of `live`.
        live: All machines there are, or were promised, with what they have cost already.
        wanted: The machine in question.
        egress_bytes: What left the cloud in this month. It cannot be bounded beforehand: at its cap
            nothing more is launched, and that is all.
    """
    month = month_of(now)
    committed = spent(month) + sum(one.cost(month) for one in live)
    if caps.egress_bytes is not None and egress_bytes >= caps.egress_bytes:
        reason = (
            f"egress cap: {egress_bytes / GIGABYTE:.2f} GB left the cloud in {month}, and "
            f"budget.egress_month_gb allows {caps.egress_bytes / GIGABYTE:.2f}"
        )
        return Admission(False, reason, committed / MICRO)
    for window in _windows(now, caps, [*live, wanted]):
        own = wanted.cost(window)
        cap = caps.of_period(window.period)
        held = spent(window) + sum(one.cost(window) for one in live)
        if own and cap is not None and held + own > cap:
            reason = (
                f"{window.period} cap: {held / MICRO:.4f} USD are spent or committed in {window}, "
                f"this machine could add {own / MICRO:.4f}, and "
                f"budget.{window.period}_usd allows {cap / MICRO:.2f}"
            )
            return Admission(False, reason, committed / MICRO)
    return Admission(True, "", (committed + wanted.cost(month)) / MICRO)


def _windows(now: datetime, caps: Caps, all_: Sequence[Commitment]) -> Iterator[Window]:
    """Every window in which the machines differ, and one for all windows after them."""
    first = now - timedelta(seconds=SKEW_SECONDS)
    last = max((one.until for one in all_ if one.until is not None), default=now)
    for window_of in (day_of, month_of):
        window = window_of(first)
        if caps.of_period(window.period) is None:
            continue
        yield window
        while window.end <= max(last, now):
            window = window_of(window.end)
            yield window
        # from here on disks alone may cost, the same in every window: the longest stands for all
        length = timedelta(days=1) if window.period == "day" else _LONGEST_MONTH
        yield Window(window.period, window.end, window.end + length)


def check_caps(
    budget: BudgetSettings, prices: PriceTable, cloud: CloudSettings
) -> SettingsError | None:
    """What is wrong with the caps: such that no worker could ever be launched.

    Args:
        budget: The caps.
        prices: The table under the same settings.
        cloud: What a worker is and how long it may run.

    Returns:
        The error to show or to raise; None where all is well.
    """
    try:
        rates = prices.rates(
            cloud.machine_type, cloud.market, cloud.disk_gb, cloud.external_address
        )
    except SettingsError as error:
        return error
    hour = (rates.running + rates.disk) / MICRO
    start = datetime(2026, 1, 1, tzinfo=UTC)  # any long month from its beginning
    run = timedelta(hours=cloud.max_run_hours, seconds=MARGIN_SECONDS)
    whole = Commitment(rates.running, start + run, start, rates.disk)
    caps = Caps.of(budget)
    for window in (day_of(start), month_of(start)):
        name, cap = f"budget.{window.period}_usd", caps.of_period(window.period)
        worker = f"a {cloud.market} {cloud.machine_type} with {cloud.disk_gb} GB of disk"
        if cap is not None and cap < rates.running + rates.disk:
            return SettingsError(
                f"{name} is {cap / MICRO:g}, less than one hour of {worker}, {hour:.4f} USD; "
                f"raise {name}, choose a smaller cloud.machine_type, or unset cloud.project"
            )
        need = whole.cost(window)
        if cap is not None and cap < need:
            disk = price(rates.disk, window.end - window.start)
            return SettingsError(
                f"{name} is {cap / MICRO:g}, and {worker} can cost {need / MICRO:.2f} USD in one "
                f"{window.period}: a run of cloud.max_run_hours = {cloud.max_run_hours:g}, and "
                f"{disk / MICRO:.2f} for its disk, should nobody be there to delete it; raise "
                f"{name}, or lower cloud.max_run_hours or cloud.disk_gb"
            )
    return None
