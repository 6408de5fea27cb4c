"""The life of a machine as the ledger keeps it: a pure state machine, fed with listings.

A machine is reserved, then seen in a listing (open), perhaps stopped, and missing from the listings
until it counts as gone (closed). Listings may be late and may flicker, so nothing is freed at the
first listing that lacks it. Every estimate errs upwards: what is written here is never less than
what the cloud bills.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from cluster.machines import Market, Vm, VmRequest, VmStatus
from cluster.money.budget import MARGIN_SECONDS, SKEW_SECONDS, Commitment, Window, overlap, price
from cluster.money.prices import Rates

SEND_SECONDS = 30
"""An insert must leave within so long of its reservation, or not at all."""
RESERVATION_SECONDS = 600
"""A reservation that no listing has shown by then is over. It spans `SEND_SECONDS`, the insert's
own time-outs and repetitions, the delay of listings, and `SKEW_SECONDS`."""
GONE_SECONDS = 60
"""A machine counts as gone when listings over so long, none further apart, have all lacked it."""
STOPPING_SECONDS = 120
"""A stop is billed until the machine is off: up to 120 s for a regular one, 30 s for Spot
(`skipGuestOsShutdown` in the Compute API)."""
LEAST_CHARGE = timedelta(minutes=1)
"""vCPUs and memory are billed for one minute at the least."""

_NEVER_RAN = timedelta(0)
_Change = Literal["opened", "adopted", "overdue", "closed", "expired", "reopened", "endless"]


@dataclass(frozen=True, slots=True)
class Interval:
    """One machine's row; the columns are explained in `cluster.tables`.

    `rates` is None for a machine that was found in the cloud and has no price.
    """

    name: str
    zone: str
    machine_type: str
    market: Market
    disk_gb: int
    max_run_seconds: int | None
    rates: Rates | None
    reserved_at: datetime | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    deadline: datetime | None = None
    stopped_at: datetime | None = None
    missing_since: datetime | None = None
    ended_at: datetime | None = None
    used_by: Mapping[str, float] = field(default_factory=dict)

    @property
    def billed_from(self) -> datetime | None:
        """When the charge began; None while it is only reserved."""
        return self.started_at or self.created_at

    def duration(self, window: Window, now: datetime) -> timedelta:
        """For how long vCPUs and memory were billed in a window, as far as is known."""
        since = self._since
        if self.created_at is None:
            if self.ended_at is None:
                return _NEVER_RAN
            # it may have run unseen, and nobody knows when: at the worst time for each window
            longest = _run(self.max_run_seconds or 0)
            return min(longest, overlap(window, since, self.ended_at))
        # what has ended is charged in full, even if the clock says that it is earlier now
        ends = (self.stopped_at, self.deadline, self.ended_at or now)
        until = min(end for end in ends if end is not None)
        return overlap(window, since, max(until, since + LEAST_CHARGE))

    def commitment(self) -> Commitment:
        """What it has cost and may still cost at the most; not for one without a price."""
        assert self.rates is not None, "a machine without a price has no commitment"
        until = self.stopped_at or self.deadline
        if until is not None:
            until = max(until, self._since + LEAST_CHARGE)
        # reserved, or waiting for its start, it costs nothing yet: a run in all, whenever it begins
        is_to_run = self.started_at is None and self.max_run_seconds is not None
        longest = _run(self.max_run_seconds or 0) if is_to_run else None
        return Commitment(self.rates.running, until, self._since, self.rates.disk, longest=longest)

    def charge(self, window: Window, now: datetime) -> Mapping[str, int]:
        """Micro-dollars of compute, disk and address in a window, up to now."""
        if self.rates is None or (self.created_at is None and self.ended_at is None):
            return {"compute": 0, "disk": 0, "address": 0}
        running = self.duration(window, now)
        kept = overlap(window, self._since, self.ended_at or now)
        return {
            "compute": price(self.rates.compute, running),
            "disk": price(self.rates.disk, kept),
            "address": price(self.rates.address, running),
        }

    @property
    def _since(self) -> datetime:
        """When it began to cost, at the earliest."""
        if self.billed_from is not None:
            return self.billed_from
        assert self.reserved_at is not None, "neither reserved nor seen"
        return self.reserved_at - timedelta(seconds=SKEW_SECONDS)


def reservation(request: VmRequest, rates: Rates, now: datetime) -> Interval:
    """The row of a machine that may be asked for now."""
    latest = now + timedelta(seconds=RESERVATION_SECONDS + SKEW_SECONDS)
    return Interval(
        request.name,
        request.zone,
        request.machine_type,
        request.market,
        request.disk_gb,
        request.max_run_seconds,
        rates,
        reserved_at=now,
        deadline=latest + _run(request.max_run_seconds),
    )


@dataclass(frozen=True, slots=True)
class Observation:
    """What a listing changed; names of machines.

    Attributes:
        opened: Reserved before, and seen now for the first time.
        adopted: Seen without a reservation of ours: it counts from its creation on.
        reopened: Counted as gone, and listed again.
        endless: Without a `max_run`: it holds all of the budget until it is gone.
        overdue: Past its `max_run` and the margin, and still there; named once in a margin.
        closed: Gone.
        expired: Reserved, and not seen until now: the promise is void. It may have come and gone
            unseen, so the time from its reservation to this listing is charged; `Ledger.release`
            takes that back, where the cloud's operations prove that it never was.
    """

    opened: tuple[str, ...] = ()
    adopted: tuple[str, ...] = ()
    reopened: tuple[str, ...] = ()
    endless: tuple[str, ...] = ()
    overdue: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()


def follow(
    rows: Mapping[str, Interval],
    vms: Sequence[Vm],
    now: datetime,
    rates_of: Callable[[Vm], Rates | None],
    previous: datetime | None = None,
) -> tuple[list[Interval], Observation]:
    """Brings the ledger up to a listing.

    Args:
        rows: By name: those that have not ended, and those of the machines listed.
        vms: All machines of the cluster, from one listing without errors.
        now: When it was made, by the cloud's clock.
        rates_of: The price of a machine that has none yet; None where none is known.
        previous: When the listing before this one was made; None where there was none.

    Returns:
        The rows that changed, and what that means.
    """
    changed: list[Interval] = []
    found: dict[_Change, list[str]] = {}
    listed = {vm.name: vm for vm in vms}
    for name, vm in listed.items():
        row = rows.get(name)
        new = _seen(row or _unknown(vm), vm, now)
        if new.rates is None:
            new = replace(new, rates=rates_of(vm))
        if new != row:
            changed.append(new)
        for change in _changes(row, vm, now):
            found.setdefault(change, []).append(name)
    # after a pause a machine may have been back in between: what it was missing before says nothing
    pause = previous is None or now - previous > timedelta(seconds=GONE_SECONDS)
    for name, row in rows.items():
        if name in listed or row.ended_at is not None:
            continue
        missed = _missed(row, now, pause)
        if missed != row:
            changed.append(missed)
        if missed.ended_at is not None:
            kind: _Change = "expired" if row.created_at is None else "closed"
            found.setdefault(kind, []).append(name)
    return changed, Observation(**{kind: tuple(names) for kind, names in found.items()})


def _unknown(vm: Vm) -> Interval:
    return Interval(vm.name, vm.zone, vm.machine_type, vm.market, vm.disk_gb, None, None)


def _seen(row: Interval, vm: Vm, now: datetime) -> Interval:
    """The row of a machine that the listing shows."""
    deadline = None
    if vm.max_run_seconds is not None:
        # the timer starts with the machine; one that has not started yet costs nothing meanwhile
        deadline = (vm.started_at or max(vm.created_at, now)) + _run(vm.max_run_seconds)
    stopped_at = None
    if vm.status is VmStatus.TERMINATED:
        stopped_at = row.stopped_at or _stopped(vm, now)
    elif deadline is not None and deadline < now:
        deadline = now + timedelta(seconds=MARGIN_SECONDS)
    return replace(
        row,
        zone=vm.zone,
        max_run_seconds=vm.max_run_seconds,
        created_at=vm.created_at,
        # the first start stays, should somebody have started it again
        started_at=row.started_at or vm.started_at,
        deadline=deadline,
        stopped_at=stopped_at,
        missing_since=None,
        ended_at=None,
    )


def _stopped(vm: Vm, now: datetime) -> datetime:
    """When its vCPUs ceased to cost, at the latest."""
    if vm.stopped_at is None or vm.stopped_at < (vm.started_at or vm.created_at):
        return now  # unknown, or of an earlier run
    return min(now, vm.stopped_at + timedelta(seconds=STOPPING_SECONDS))


def _missed(row: Interval, now: datetime, pause: bool) -> Interval:
    """The row of a machine that the listing lacks."""
    if row.created_at is None:
        assert row.reserved_at is not None
        is_void = now - row.reserved_at >= timedelta(seconds=RESERVATION_SECONDS)
        return replace(row, ended_at=now) if is_void else row
    if row.missing_since is None or pause:
        return replace(row, missing_since=now)
    if now - row.missing_since < timedelta(seconds=GONE_SECONDS):
        return row
    return replace(row, ended_at=row.missing_since)


def _changes(row: Interval | None, vm: Vm, now: datetime) -> list[_Change]:
    changes: list[_Change] = []
    if vm.max_run_seconds is None and (row is None or row.max_run_seconds is not None):
        changes.append("endless")
    if row is None:
        return [*changes, "adopted"]
    if row.created_at is None:
        changes.append("opened")
    if row.ended_at is not None:
        changes.append("reopened")
    if vm.is_live and row.deadline is not None and row.deadline < now:
        changes.append("overdue")
    return changes


def _run(seconds: int) -> timedelta:
    """A whole run, with what it may last longer."""
    return timedelta(seconds=seconds + MARGIN_SECONDS)
