"""The life of a machine in the ledger, listing by listing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cluster.machines import Vm, VmStatus
from cluster.money.budget import MARGIN_SECONDS, SKEW_SECONDS, day_of, month_of
from cluster.money.intervals import (
    GONE_SECONDS,
    RESERVATION_SECONDS,
    STOPPING_SECONDS,
    Interval,
    Observation,
    follow,
    reservation,
)
from cluster.money.prices import Rates
from tests.unit.cluster.vm_requests import vm_request

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
RATES = Rates(compute=1_000_000, disk=10_000, address=100_000)
DAY, MONTH = day_of(NOON), month_of(NOON)
REQUEST = vm_request()
VM = Vm(
    name="one",
    zone="us-central1-a",
    machine_type="e2-highmem-4",
    market="spot",
    status=VmStatus.RUNNING,
    created_at=NOON,
    started_at=NOON + timedelta(seconds=40),
    stopped_at=None,
    max_run_seconds=3600,
    disk_gb=50,
    labels={},
    address="",
    has_external_address=True,
)
RESERVED = reservation(REQUEST, RATES, NOON - timedelta(seconds=5))


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def listed(
    row: Interval | None, vm: Vm | None, at: float, previous: float | None = None
) -> tuple[Interval, Observation]:
    """The row after a listing at so many seconds after noon."""
    rows: Mapping[str, Interval] = {} if row is None else {row.name: row}
    before = None if previous is None else after(previous)
    vms = [] if vm is None else [vm]
    changed, observation = follow(rows, vms, after(at), lambda _: RATES, before)
    if changed:
        return changed[0], observation
    assert row is not None
    return row, observation


def seen(at: float = 60, vm: Vm = VM) -> Interval:
    return listed(RESERVED, vm, at)[0]


def test_a_reservation_promises_a_whole_run_and_costs_nothing_yet() -> None:
    assert sum(RESERVED.charge(MONTH, after(300)).values()) == 0
    promise = RESERVED.commitment()
    running = (3600 + MARGIN_SECONDS) * 1_100_000 // 3600 + 1
    disk_hours = (DAY.end - promise.since) / timedelta(hours=1)
    assert promise.cost(DAY) == pytest.approx(running + disk_hours * 10_000, abs=2)


def test_a_machine_is_opened_by_its_first_listing_and_charged_from_its_start() -> None:
    row, observation = listed(RESERVED, VM, at=60)
    assert observation == Observation(opened=("one",))
    assert row.billed_from == VM.started_at
    assert row.deadline == after(40 + 3600 + MARGIN_SECONDS)
    assert row.charge(DAY, after(40 + 1800)) == {
        "compute": 500_000,
        "disk": 5_000,
        "address": 50_000,
    }


def test_one_that_has_not_started_promises_no_more_than_its_reservation() -> None:
    staging = replace(VM, status=VmStatus.STAGING, started_at=None)
    row = seen(400, staging)
    assert row.deadline == after(400 + 3600 + MARGIN_SECONDS)
    assert row.commitment().cost(DAY) <= RESERVED.commitment().cost(DAY)
    started = listed(row, replace(VM, started_at=after(450)), at=455)[0]
    assert started.commitment().cost(DAY) <= RESERVED.commitment().cost(DAY)


def test_a_second_listing_changes_nothing() -> None:
    changed, observation = follow({"one": seen()}, [VM], after(65), lambda _: RATES)
    assert (changed, observation) == ([], Observation())


def test_a_machine_of_nobody_is_adopted_from_its_creation() -> None:
    row, observation = listed(None, VM, at=1000)
    assert observation == Observation(adopted=("one",))
    assert (row.reserved_at, row.created_at, row.rates) == (None, NOON, RATES)


def test_a_machine_without_a_limit_is_named_once() -> None:
    row, observation = listed(None, replace(VM, max_run_seconds=None), at=60)
    assert observation == Observation(adopted=("one",), endless=("one",))
    assert row.commitment().until is None
    assert listed(row, replace(VM, max_run_seconds=None), at=70)[1] == Observation()


def test_it_is_gone_when_listings_in_a_row_have_lacked_it() -> None:
    row, observation = listed(seen(), None, at=100, previous=95)
    assert (row.missing_since, row.ended_at, observation) == (after(100), None, Observation())
    again, observation = listed(row, None, at=100 + GONE_SECONDS - 1, previous=130)
    assert (again, observation) == (row, Observation())
    row, observation = listed(row, None, at=100 + GONE_SECONDS, previous=130)
    assert (row.ended_at, observation) == (after(100), Observation(closed=("one",)))
    assert row.charge(DAY, after(9999)) == {"compute": 16_667, "disk": 167, "address": 1_667}


@pytest.mark.parametrize("previous", [None, 100.0])
def test_after_a_pause_it_is_missed_anew(previous: float | None) -> None:
    missing = listed(seen(), None, at=100, previous=95)[0]
    row, observation = listed(missing, None, at=2000, previous=previous)
    assert (row.missing_since, row.ended_at) == (after(2000), None)
    assert observation == Observation()
    # it may have run until then
    closed = listed(row, None, at=2100, previous=2050)[0]
    assert closed.ended_at == after(2000)


def test_one_that_flickers_stays_as_it_was() -> None:
    missing = listed(seen(), None, at=100, previous=95)[0]
    assert listed(missing, VM, at=130, previous=100)[0] == seen()


def test_one_that_comes_back_is_charged_for_all_the_time() -> None:
    closed = replace(seen(), missing_since=after(100), ended_at=after(100))
    row, observation = listed(closed, VM, at=1840)
    assert observation == Observation(reopened=("one",))
    assert row.charge(DAY, after(1840))["compute"] == 500_000


def test_nobody_saw_the_end_so_it_ran_to_its_limit() -> None:
    row = replace(seen(), missing_since=after(86_000), ended_at=after(86_000))
    assert row.charge(MONTH, after(90_000))["compute"] == 1_083_334  # an hour and the margin


def test_a_stopped_machine_costs_its_disk() -> None:
    stopped = replace(VM, status=VmStatus.TERMINATED, stopped_at=after(640 - STOPPING_SECONDS))
    row = listed(seen(), stopped, at=1840)[0]
    assert row.stopped_at == after(640)
    assert row.charge(DAY, after(3640)) == {"compute": 166_667, "disk": 10_000, "address": 16_667}
    promise = row.commitment()
    assert promise.cost(day_of(DAY.end)) == 240_000
    # the first stop counts, however often it is listed
    assert listed(row, stopped, at=9000)[0] == row


@pytest.mark.parametrize("stopped_at", [None, NOON - timedelta(days=1)])
def test_a_stop_of_unknown_time_is_now(stopped_at: datetime | None) -> None:
    vm = replace(VM, status=VmStatus.TERMINATED, stopped_at=stopped_at)
    assert listed(seen(), vm, at=1840)[0].stopped_at == after(1840)


def test_one_that_was_started_again_has_run_all_the_time() -> None:
    stopped = replace(VM, status=VmStatus.TERMINATED, stopped_at=after(520))
    row = listed(listed(seen(), stopped, at=700)[0], replace(VM, started_at=after(1000)), 1100)[0]
    assert (row.stopped_at, row.billed_from) == (None, VM.started_at)
    assert row.deadline == after(1000 + 3600 + MARGIN_SECONDS)


def test_one_that_outlives_its_limit_goes_on_costing_and_is_named_once_in_a_margin() -> None:
    late = 40 + 3600 + MARGIN_SECONDS + 1
    row, observation = listed(seen(), VM, at=late)
    assert observation == Observation(overdue=("one",))
    assert row.deadline == after(late + MARGIN_SECONDS)
    row, observation = listed(row, VM, at=late + 5)
    assert observation == Observation()
    assert row.charge(DAY, after(late))["compute"] == 1_083_612


def test_a_reservation_that_was_never_seen_is_charged_for_the_time_nobody_looked() -> None:
    age = RESERVATION_SECONDS - 6
    assert listed(RESERVED, None, at=age) == (RESERVED, Observation())
    row, observation = listed(RESERVED, None, at=age + 1)
    assert observation == Observation(expired=("one",))
    assert row.charge(DAY, after(9999))["compute"] == price_of(RESERVATION_SECONDS + SKEW_SECONDS)
    # a day later it may have run wholly on either side of midnight
    row, _ = listed(RESERVED, None, at=86_400)
    run = price_of(3600 + MARGIN_SECONDS)
    assert [row.charge(day, after(9)).get("compute") for day in (DAY, day_of(DAY.end))] == [run] * 2


def price_of(seconds: int) -> int:
    return -(-seconds * RATES.compute // 3600)


def test_a_minute_is_billed_at_the_least() -> None:
    row = replace(seen(), missing_since=after(50), ended_at=after(50))
    assert row.charge(DAY, after(999))["compute"] == price_of(60)


def test_a_machine_without_a_price_gets_one_when_there_is_one() -> None:
    changed, _ = follow({}, [VM], after(60), lambda _: None)
    assert sum(changed[0].charge(DAY, after(999)).values()) == 0
    changed, _ = follow({"one": changed[0]}, [VM], after(65), lambda _: RATES)
    assert changed[0].rates == RATES
