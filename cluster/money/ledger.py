"""The ledger in the state store: every machine's interval, and the promise of those to come.

`reserve` decides and writes in one transaction that keeps other writers out, so two processes can
not both take the last of a budget. A process that dies between its reservation and the reply to its
insert loses nothing: the reservation holds the money until a listing shows the machine, or until
`RESERVATION_SECONDS` have passed without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Connection, text

from cluster.machines import Vm, VmRequest
from cluster.money import ledger_rows as rows
from cluster.money.budget import SKEW_SECONDS, Admission, Caps, Window, admit, day_of, month_of
from cluster.money.intervals import (
    RESERVATION_SECONDS,
    SEND_SECONDS,
    STOPPING_SECONDS,
    Interval,
    Observation,
    follow,
    reservation,
)
from cluster.money.prices import MICRO, PriceTable, Rates
from ironcliw.errors import SettingsError
from ironcliw.setting_sections import BudgetSettings
from ironcliw.store import Store

__all__ = ["FRESH_SECONDS", "RESERVATION_SECONDS", "SEND_SECONDS", "Ledger", "Standing"]

_log = logging.getLogger(__name__)

FRESH_SECONDS = 60
"""No machine is granted unless a listing of the last 60 seconds is known: money is counted from
what the cloud says there is, at the time that the cloud says it is."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a window stands; US dollars.

    Attributes:
        window: A day or a month.
        cap: None: there is none.
        spent: Up to now, egress included.
        committed: What it can cost at the most with the machines of now.
    """

    window: Window
    cap: float | None
    spent: float
    committed: float

    @property
    def over(self) -> bool:
        """Whether the cap can be passed, by more than a cent: work should be drained.

        It happens when a cap was lowered, when egress went on, or when the cloud let a machine live
        past its limit; what was admitted does not lead there by itself. The cent is for rounding.
        """
        return self.cap is not None and self.committed > self.cap + 0.01


class Ledger:
    """What machines have cost and may cost; shared by all processes that open the store.

    Args:
        store: Migrated already.
        prices: Of machines that are reserved from now on; what is reserved keeps its price.
        budget: The caps.
        clock: The wall clock; aware datetimes. It may be wrong, see `observe`.
    """

    def __init__(
        self,
        store: Store,
        prices: PriceTable,
        budget: BudgetSettings,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._prices = prices
        self._caps = Caps.of(budget)
        self._clock = clock
        self._offset = timedelta(0)
        self._observed: datetime | None = None  # by `clock`
        self._listed: datetime | None = None  # the same by the cloud's

    def now(self) -> datetime:
        """The cloud's time, as well as this process knows it."""
        return self._clock() + self._offset

    @property
    def is_stale(self) -> bool:
        """Whether the next `reserve` would be refused for want of a listing."""
        return bool(self._stale())

    def reserve(self, request: VmRequest) -> Admission:
        """Promises the money for a machine, if all caps allow it.

        After a grant the insert must leave within `SEND_SECONDS`, or not at all.

        Raises:
            SettingsError: No price is known for the machine type.
            StoreError: The store cannot be used; nothing is promised then.
        """
        market, disk, address = request.market, request.disk_gb, request.external_address
        rates = self._prices.rates(request.machine_type, market, disk, address)
        with self._writing() as connection:
            # the clock is read when the lock is held: waiting for it takes time
            if refusal := self._stale():
                return Admission(False, refusal, 0.0)
            now = self.now()
            if rows.one(connection, request.name) is not None:
                return Admission(False, f"the name {request.name} was used before", 0.0)
            row = reservation(request, rates, now)
            answer = self._admit(connection, row, now)
            if answer.granted:
                rows.write(connection, row, is_new=True)
        return answer

    def release(self, name: str, reason: str) -> bool:
        """Gives a reservation back, after the cloud has refused the insert, even one that expired.

        Not for an insert whose outcome is unknown: listings decide about that one.

        Args:
            name: Of the machine.
            reason: For the log; the ledger keeps no row.

        Returns:
            Whether there was a reservation. A machine that was seen stays.
        """
        with self._writing() as connection:
            row = rows.one(connection, name)
            if row is None or row.created_at is not None:
                return False
            rows.remove(connection, name)
        _log.info("the reservation of machine %s is given back: %s", name, reason)
        return True

    def observe(self, vms: Sequence[Vm], *, at: datetime | None = None) -> Observation:
        """Takes in a listing: opens, updates and closes intervals.

        Args:
            vms: All machines of the cluster, from one listing that succeeded.
            at: The cloud's own time of it (the `Date` of the answer). With it the machine's clock
                may jump as it likes; without it the clock must be right to within
                `cluster.money.budget.SKEW_SECONDS`.

        Returns:
            What changed, for the event log.
        """
        local = self._clock()
        newest = max((vm.created_at for vm in vms), default=local)
        now = at if at is not None else max(local, newest)
        with self._writing() as connection:
            before = rows.unended(connection, [vm.name for vm in vms])
            changed, observation = follow(before, vms, now, self._rates, self._listed)
            for row in changed:
                rows.write(connection, row, is_new=row.name not in before)
        self._offset, self._observed, self._listed = now - local, local, now
        return observation

    def ended(self, name: str, at: datetime) -> None:
        """Says when a machine went, by the cloud's record of its preemption or deletion.

        Only for one that listings lack: it is closed, or its end is put earlier, never later.
        """
        with self._writing() as connection:
            row = rows.one(connection, name)
            if row is None or row.billed_from is None or row.missing_since is None:
                return
            end = max(at + timedelta(seconds=STOPPING_SECONDS), row.billed_from)
            if row.ended_at is None or end < row.ended_at:
                rows.write(connection, replace(row, ended_at=end), is_new=False)

    def add_use(self, name: str, user: str, seconds: float) -> None:
        """Notes that a job or a deployment used a machine, for the report by use.

        Args:
            name: Of the machine; one that is not known is ignored.
            user: `job/ID` or `deployment/NAME`.
            seconds: How long, since the last note.
        """
        with self._writing() as connection:
            row = rows.one(connection, name)
            if row is not None:
                used_by = {**row.used_by, user: row.used_by.get(user, 0.0) + seconds}
                rows.write(connection, replace(row, used_by=used_by), is_new=False)

    def add_egress(self, node: str, boot: str, counter: int) -> None:
        """Takes in a node's meter.

        Args:
            node: Name of the machine.
            boot: Changes with every boot, and then the meter has begun at zero again.
            counter: Bytes that left it since it booted. The ledger keeps the difference to what the
                meter read before, so a reading that comes twice counts once.
        """
        with self._writing() as connection:
            today = self.now().astimezone(UTC).date()
            rows.add_egress(connection, node, boot, counter, today)

    def spent(self, window: Window) -> float:
        """US dollars in a day or month up to now, egress included."""
        return self._standing(window).spent

    def standing(self) -> tuple[Standing, Standing]:
        """How the current day and the current month stand."""
        now = self.now()
        return self._standing(day_of(now)), self._standing(month_of(now))

    def intervals(self, since: datetime) -> Sequence[Interval]:
        """Every machine that was there at some time after `since`, the reserved ones too."""
        with self._store.read() as connection:
            return rows.after(connection, since)

    def ordered(self, names: Collection[str]) -> frozenset[str]:
        """Those of some machines that were reserved here, whatever became of them."""
        with self._store.read() as connection:
            return rows.ordered(connection, names)

    def egress_bytes(self, window: Window) -> int:
        """Bytes that left the cloud in a day or month."""
        with self._store.read() as connection:
            return _within(rows.egress(connection, window.start), window)

    def _standing(self, window: Window) -> Standing:
        now = self.now()
        with self._store.read() as connection:
            found = rows.after(connection, window.start)
            left = _within(rows.egress(connection, window.start), window)
        egress = self._prices.egress(left)
        paid = [sum(row.charge(window, now).values()) for row in found]
        most = [
            cost if row.ended_at is not None or row.rates is None else row.commitment().cost(window)
            for row, cost in zip(found, paid, strict=True)
        ]
        cap = self._caps.of_period(window.period)
        return Standing(
            window,
            None if cap is None else cap / MICRO,
            (sum(paid) + egress) / MICRO,
            (sum(most) + egress) / MICRO,
        )

    def _admit(self, connection: Connection, row: Interval, now: datetime) -> Admission:
        first = month_of(now - timedelta(seconds=SKEW_SECONDS)).start
        found = rows.after(connection, first)
        open_ = [one for one in found if one.ended_at is None]
        closed = [one for one in found if one.ended_at is not None]
        if unpriced := [one for one in open_ if one.rates is None]:
            one = unpriced[0]
            reason = f"machine {one.name} has no price: set budget.prices.{one.machine_type}"
            return Admission(False, reason, 0.0)

        egress = rows.egress(connection, first)

        def spent(window: Window) -> int:
            machines = sum(sum(one.charge(window, now).values()) for one in closed)
            return machines + self._prices.egress(_within(egress, window))

        live = [one.commitment() for one in open_]
        left = _within(egress, month_of(now))
        return admit(now, self._caps, spent, live, row.commitment(), left)

    def _stale(self) -> str:
        """Why what is known of the cloud is too old; empty if it is not."""
        if self._observed is None:
            return "the cloud's machines have not been listed yet"
        age = (self._clock() - self._observed).total_seconds()
        if 0 <= age <= FRESH_SECONDS:
            return ""
        # a clock that was set back shows as a negative age
        return f"the cloud's machines were last listed {age:.0f} s ago; {FRESH_SECONDS} are allowed"

    def _rates(self, vm: Vm) -> Rates | None:
        try:
            return self._prices.rates(
                vm.machine_type, vm.market, vm.disk_gb, vm.has_external_address
            )
        except SettingsError as error:
            _log.warning("machine %s is not counted: %s", vm.name, error)
            return None

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction in which nobody else writes: what it reads stays true until its end."""
        with self._store.write() as connection:
            if self._store.dialect == "postgresql":  # SQLite has one writer at a time anyway
                connection.execute(
                    text("LOCK TABLE cluster_vms, cluster_egress IN SHARE ROW EXCLUSIVE MODE")
                )
            yield connection


def _within(egress: Mapping[date, int], window: Window) -> int:
    """Bytes of the days in a window."""
    first, end = window.start.date(), window.end.date()
    return sum(count for day, count in egress.items() if first <= day < end)
