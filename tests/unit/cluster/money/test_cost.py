"""The month's report, and the table of what a worker costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cluster.money.cost import CostReport, monthly_table, report
from cluster.money.intervals import Interval
from cluster.money.prices import PriceTable, Rates
from ironcliw.setting_sections import BudgetSettings

START = datetime(2026, 4, 1, tzinfo=UTC)  # a month of 30 days
NOW = START + timedelta(days=6)
PRICES = PriceTable.of(BudgetSettings())
RATES = Rates(compute=63_800, disk=2_740, address=2_500)


def interval(
    begin_hour: float, hours: float | None, used_by: Mapping[str, float] | None = None
) -> Interval:
    """A machine that began so many hours into the month; `hours` None: it runs."""
    begin = START + timedelta(hours=begin_hour)
    return Interval(
        name=f"vm-{begin_hour}",
        zone="us-central1-a",
        machine_type="e2-highmem-4",
        market="spot",
        disk_gb=50,
        max_run_seconds=14_400,
        rates=RATES,
        reserved_at=begin,
        created_at=begin,
        started_at=begin,
        deadline=NOW + timedelta(hours=1),
        ended_at=None if hours is None else begin + timedelta(hours=hours),
        used_by=used_by or {},
    )


def made(*intervals: Interval, egress: int = 0, now: datetime = NOW) -> CostReport:
    return report(intervals, egress, now, PRICES, committed=1.5)


@pytest.mark.parametrize(
    ("hours", "month", "year"),
    [(4, 7.66, 91.92), (8, 15.31, 183.72), (12, 22.97, 275.64), (24, 45.94, 551.28)],
)
def test_the_table_of_a_worker(hours: int, month: float, year: float) -> None:
    assert {"hours_a_day": hours, "month": month, "year": year} in monthly_table(
        PRICES.hourly("e2-highmem-4", "spot")
    )


def test_half_a_cent_rounds_up() -> None:
    # 0.001125 x 4 x 30 = 0.135, which as a binary number lies below
    assert monthly_table(0.001125)[0] == {"hours_a_day": 4, "month": 0.14, "year": 1.68}


def test_an_empty_month_costs_nothing() -> None:
    found = made()
    assert (found.month, found.total, found.linear, found.machines) == ("2026-04", 0, 0, 0)
    assert (found.by_use, found.regular, found.locally) == ({}, 0, 0)


def test_lines_add_up_to_the_total() -> None:
    found = made(interval(0, 10), interval(20, 2), egress=2 * 10**9)
    assert found.to_date == pytest.approx(
        {"compute": 12 * 0.0638, "disk": 12 * 0.00274, "address": 12 * 0.0025, "egress": 0.24}
    )
    assert found.total == pytest.approx(sum(found.to_date.values()))
    assert (found.vm_hours, found.egress_gb) == (12, 2)


def test_the_forecast_goes_on_as_in_the_days_so_far() -> None:
    found = made(interval(0, 10))
    assert found.linear == pytest.approx(5 * found.total)
    assert found.committed == 1.5
    assert found.cap == 25.0


def test_the_first_hours_count_as_a_day() -> None:
    found = made(interval(0, None), now=START + timedelta(hours=2))
    assert found.linear == pytest.approx(30 * found.total)


def test_a_machine_that_runs_is_charged_until_now() -> None:
    found = made(interval(6 * 24 - 3, None))
    assert (found.vm_hours, found.machines) == (3, 1)


def test_only_this_months_part_counts() -> None:
    found = made(interval(-5, 8))
    assert found.vm_hours == 3
    assert found.to_date["compute"] == pytest.approx(3 * 0.0638)


def test_users_bear_their_part_and_nobody_the_rest() -> None:
    found = made(
        interval(0, 10, {"job/7": 2 * 3600.0, "deployment/embed": 3 * 3600.0}),
        interval(20, 10, {"job/7": 3600.0}),
        interval(40, 5),
    )
    each = found.total / 25
    assert found.by_use == pytest.approx(
        {"unattributed": 19 * each, "job/7": 3 * each, "deployment/embed": 3 * each}, abs=1e-5
    )
    assert sum(found.by_use.values()) == pytest.approx(found.total)


def test_users_at_the_same_time_share() -> None:
    found = made(interval(0, 10, {"job/a": 36_000.0, "job/b": 12_000.0}))
    assert found.by_use == pytest.approx(
        {"job/a": 0.75 * found.total, "job/b": 0.25 * found.total}, abs=1e-5
    )


def test_use_before_this_month_is_spread_over_the_run() -> None:
    # eight hours, half of them used, of which three lie in this month
    found = made(interval(-5, 8, {"job/7": 4 * 3600.0}))
    assert found.by_use["job/7"] == pytest.approx(found.total / 2, abs=1e-5)


def test_regular_machines_would_cost_more() -> None:
    found = made(interval(0, 10), egress=10**9)
    more = 10 * (0.2128 - 0.0638 + 0.005 - 0.0025)
    assert found.regular == pytest.approx(found.total + more)


@pytest.mark.parametrize("unknown", [{"rates": None}, {"machine_type": "a9-mega-1"}])
def test_without_a_price_there_is_nothing_to_compare(unknown: dict[str, str | None]) -> None:
    assert made(replace(interval(0, 10), **unknown)).regular is None  # type: ignore[arg-type]


def test_a_reservation_is_a_machine_that_costs_nothing_yet() -> None:
    row = replace(interval(5, None), created_at=None, started_at=None)
    found = made(row)
    assert (found.total, found.vm_hours, found.machines) == (0, 0, 1)


def test_the_document_is_json() -> None:
    document = json.loads(json.dumps(made(interval(0, 10)).document(), default=str))
    assert document["to_date"]["compute"] == 0.638
    assert document["at"] == "2026-04-07 00:00:00+00:00"
