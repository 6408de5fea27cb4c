"""A cloud that keeps its own books, and heads that use the ledger: does a cap ever break?

The books are in fractions of a dollar and by the cloud's own clock. Nothing here shares code with
the ledger but the calendar.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from sqlalchemy import delete

from cluster.machines import Vm, VmRequest, VmStatus
from cluster.money.budget import Caps, Window, day_of, month_of
from cluster.money.ledger import Ledger
from cluster.money.prices import PriceTable
from cluster.tables import cluster_egress, cluster_vms
from ironcliw.setting_sections import BudgetSettings, PriceSettings
from ironcliw.store import Store

START = datetime(2026, 2, 27, 18, 30, tzinfo=UTC)  # a short month ends soon
TYPE = "e2-highmem-4"
MAX_WORKERS = 2
"""Where the autoscaler stops; it does not count machines that drain, so the budget must."""


def seconds(count: float) -> timedelta:
    """So many, of any size and sign."""
    return timedelta(seconds=count)


@dataclass
class Machine:
    """A machine as the cloud knows it; `running` and `disk` are US dollars an hour."""

    request: VmRequest
    created_at: datetime
    started_at: datetime
    listed_from: datetime
    running: Fraction
    disk: Fraction
    limit: datetime  # deleted then at the latest
    stopping_at: datetime | None = None
    off_at: datetime | None = None
    deleted_at: datetime | None = None

    def is_there(self, now: datetime) -> bool:
        """Whether it may cost something still."""
        gone = self.limit if self.off_at is None else self.deleted_at
        return gone is None or now < gone

    def cost(self, window: Window, now: datetime) -> Fraction:
        """What the cloud bills in a window, up to now."""
        ends = [end for end in (self.off_at, self.deleted_at, self.limit) if end is not None]
        gone = min([end for end in (self.deleted_at,) if end is not None], default=now)
        if self.off_at is None:
            gone = min(gone, self.limit)
        total = self.disk * hours(window, self.created_at, min(gone, now))
        if min(ends) > self.started_at and now > self.started_at:
            total += self.running * hours(
                window, self.started_at, max(min(*ends, now), self.started_at + seconds(60))
            )
        return total


def hours(window: Window, since: datetime, until: datetime) -> Fraction:
    """How much of a stretch of time lies in a window."""
    inside = max(min(until, window.end) - max(since, window.start), timedelta(0))
    return Fraction(inside // timedelta(microseconds=1), 3_600_000_000)


@dataclass
class History:
    """The cloud, its heads, and what happens to them."""

    store: Store
    budget: BudgetSettings
    max_run: int
    now: datetime = START
    skew: timedelta = timedelta(0)
    machines: dict[str, Machine] = field(default_factory=dict)
    heads: list[Ledger] = field(default_factory=list)
    sent: int = 0
    granted: int = 0
    refused: int = 0
    beyond: bool = False
    """There were more machines than `MAX_WORKERS` at once, one of them draining."""

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Both heads die and start again: they know what the store knows."""
        prices = PriceTable.of(self.budget)
        self.heads = [
            Ledger(self.store, prices, self.budget, clock=lambda: self.now + self.skew)
            for _ in range(2)
        ]

    def change_price(self, usd: float) -> None:
        """Settings are read at a start; machines that exist keep their price."""
        prices = {TYPE: PriceSettings(spot=usd, regular=usd)}
        self.budget = self.budget.model_copy(update={"prices": prices})
        self.restart()

    def advance(self, count: float) -> None:
        """Time goes on."""
        self.now += seconds(count)

    def to_the_end(self, month: bool, before: float) -> None:
        """To so many seconds before the end of the month or the day."""
        window = month_of(self.now) if month else day_of(self.now)
        self.now = max(self.now, window.end - seconds(before))

    def jump(self, count: float) -> None:
        """The head's clock jumps; its listings tell it the cloud's time."""
        self.skew += seconds(count)

    def listing(self, hidden: int | None = None) -> list[Vm]:
        """What the cloud shows; one machine may be missing."""
        vms = [
            shown
            for machine in self.machines.values()
            if (shown := self._shown(machine)) is not None
        ]
        if hidden is not None and vms:
            del vms[hidden % len(vms)]
        return vms

    def observe(self, head: int, hidden: int | None = None) -> None:
        """A head lists the machines."""
        # the header's time has whole seconds
        self.heads[head].observe(self.listing(hidden), at=self.now.replace(microsecond=0))

    def reserve(self, head: int, size: int) -> VmRequest | None:
        """A head wants a machine with a disk of that size; None: refused."""
        request = VmRequest(
            name=f"ironcliw-{self.granted + self.refused:08x}",
            zone="us-central1-a",
            machine_type=TYPE,
            market="spot",
            labels={},
            metadata={},
            image="",
            disk_gb=size,
            network="",
            subnetwork=None,
            external_address=True,
            service_account=None,
            max_run_seconds=self.max_run,
            notice_seconds=30,
            request_id="",
        )
        granted = self.heads[head].reserve(request).granted
        self.granted += granted
        self.refused += not granted
        return request if granted else None

    def insert(
        self, request: VmRequest, delay: float, boot: float, lag: float, late: float
    ) -> None:
        """The cloud gets the insert after a delay, and shows the machine after a lag."""
        rates = PriceTable.of(self.budget).rates(TYPE, "spot", request.disk_gb, True)
        created_at = self.now + seconds(delay)
        started_at = created_at + seconds(boot)
        self.machines[request.name] = Machine(
            request,
            created_at,
            started_at,
            created_at + seconds(lag),
            Fraction(rates.running, 1_000_000),
            Fraction(rates.disk, 1_000_000),
            started_at + seconds(request.max_run_seconds + late),
        )
        there = [one for one in self.machines.values() if one.is_there(self.now)]
        draining = any(one.stopping_at is not None for one in there)
        self.beyond = self.beyond or (draining and len(there) > MAX_WORKERS)

    def end(self, which: int, off_after: float, stays: bool) -> None:
        """Preempted or deleted; or it stops itself (`stays`), and its disk is kept."""
        running = [
            one
            for one in self.machines.values()
            if one.stopping_at is None and one.created_at <= self.now < one.limit
        ]
        if not running:
            return
        machine = running[which % len(running)]
        machine.stopping_at = self.now
        machine.off_at = self.now + seconds(off_after)
        if not stays:
            machine.deleted_at = machine.off_at

    def reap(self, head: int) -> None:
        """Stopped machines are deleted, and the cloud's operations tell when machines went."""
        for name, machine in self.machines.items():
            if machine.off_at is not None and machine.off_at <= self.now:
                machine.deleted_at = machine.deleted_at or self.now
                self.heads[head].ended(name, machine.deleted_at)

    def send(self, count: int) -> None:
        """Bytes leave the cloud, which nothing can bound; they count as spent all the same."""
        self.sent += count
        self.heads[0].add_egress("node", "boot", self.sent)

    def breaches(self) -> list[str]:
        """Windows in which the bill passes the cap, when nobody is there for 45 days."""
        self.advance(45 * 86400)
        caps, found = Caps.of(self.budget), []
        for window_of in (day_of, month_of):
            window = window_of(START)
            cap = caps.of_period(window.period)
            while cap is not None and window.start < self.now:
                bill = sum(one.cost(window, self.now) for one in self.machines.values())
                if bill * 1_000_000 > cap:
                    found.append(f"{window}: {float(bill):.6f} > {cap / 1e6:.6f}")
                window = window_of(window.end)
        return found

    def _shown(self, machine: Machine) -> Vm | None:
        gone = machine.limit if machine.off_at is None else machine.deleted_at
        if self.now < machine.listed_from or (gone is not None and self.now >= gone):
            return None
        started = self.now >= machine.started_at
        status = VmStatus.RUNNING if started else VmStatus.STAGING
        if machine.off_at is not None:
            status = VmStatus.STOPPING if self.now < machine.off_at else VmStatus.TERMINATED
        request = machine.request
        return Vm(
            name=request.name,
            zone=request.zone,
            machine_type=TYPE,
            market="spot",
            status=status,
            created_at=machine.created_at,
            started_at=machine.started_at if started else None,
            stopped_at=machine.stopping_at if status is VmStatus.TERMINATED else None,
            max_run_seconds=request.max_run_seconds,
            disk_gb=request.disk_gb,
            labels={},
            address="",
            has_external_address=True,
        )


def clear(store: Store) -> None:
    """Forget every machine and all egress, for the next history."""
    with store.write() as connection:
        connection.execute(delete(cluster_vms))
        connection.execute(delete(cluster_egress))
