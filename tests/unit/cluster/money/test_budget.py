"""The decision about a machine: windows, bounds, and what is said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.money.budget import (
    MARGIN_SECONDS,
    Admission,
    Caps,
    Commitment,
    Window,
    admit,
    check_caps,
    day_of,
    month_of,
    overlap,
    price,
)
from cluster.money.prices import PriceTable
from ironcliw.setting_sections import BudgetSettings, CloudSettings, PriceSettings

NOON = datetime(2026, 2, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2028, 12, 31), timezones=st.just(UTC))


def nothing(_: Window) -> int:
    return 0


def run(hours: float, since: datetime = NOON, hourly: int = 1_000_000) -> Commitment:
    """A machine at a dollar an hour, without a disk."""
    return Commitment(hourly, since + timedelta(hours=hours), since, kept_until=since)


def ask(
    wanted: Commitment, *live: Commitment, month: int = 10, day: int | None = None, spent: int = 0
) -> Admission:
    """At noon, with caps and spending in whole dollars."""
    caps = Caps(month * 1_000_000, None if day is None else day * 1_000_000)
    in_february = month_of(NOON)

    def of(window: Window) -> int:
        return spent * 1_000_000 if window == in_february else 0

    return admit(NOON, caps, of, live, wanted)


@given(MOMENTS)
def test_every_moment_lies_in_its_day_and_month(moment: datetime) -> None:
    day, month = day_of(moment), month_of(moment)
    for window in (day, month):
        assert window.start <= moment < window.end
        assert overlap(window, window.start, None) == window.end - window.start
    assert month.start.day == month.end.day == 1
    assert month_of(month.end) == Window("month", month.end, month_of(month.end).end)
    assert day_of(month.end - timedelta(microseconds=1)).end == month.end


def test_windows_are_in_utc() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert str(day_of(datetime(2026, 3, 1, 8, tzinfo=tokyo))) == "2026-02-28"
    assert str(month_of(datetime(2026, 3, 1, 9, tzinfo=tokyo))) == "2026-03"


@given(MOMENTS, st.integers(0, 10**6), st.timedeltas(timedelta(0), timedelta(days=200)))
def test_the_parts_of_a_commitment_add_up(since: datetime, hourly: int, length: timedelta) -> None:
    one = Commitment(hourly, since + length, since, kept_until=since)
    total, window, count = 0, month_of(since), 0
    while window.start < since + length:
        total, window, count = total + one.cost(window), month_of(window.end), count + 1
    # each part is rounded up by less than a micro-dollar
    assert price(hourly, length) <= total <= price(hourly, length) + count


def test_a_run_of_unknown_beginning_counts_wholly_in_each_window_it_may_fall_into() -> None:
    midnight = day_of(NOON).end
    one = Commitment(
        1_000_000, midnight + 3 * HOUR, midnight - 3 * HOUR, kept_until=NOON, longest=2 * HOUR
    )
    assert one.cost(day_of(NOON)) == one.cost(day_of(midnight)) == 2_000_000


def test_a_disk_counts_to_the_end_of_every_window() -> None:
    one = Commitment(1_000_000, NOON + HOUR, NOON, kept_hourly=10_000)
    assert one.cost(day_of(NOON)) == 1_000_000 + 12 * 10_000
    march = month_of(datetime(2026, 3, 5, tzinfo=UTC))
    assert one.cost(march) == 31 * 24 * 10_000


def test_the_last_cent_may_be_spent_and_no_more() -> None:
    assert ask(run(10)) == Admission(True, "", 10.0)
    assert ask(run(6), run(4)) == Admission(True, "", 10.0)
    answer = ask(run(6), run(4.001))
    assert (answer.granted, answer.committed) == (False, 4.001)
    assert answer.reason == (
        "month cap: 4.0010 USD are spent or committed in 2026-02, this machine could add 6.0000, "
        "and budget.month_usd allows 10.00"
    )
    assert ask(run(6), run(3), spent=1).granted
    assert not ask(run(6), run(3), spent=2).granted


def test_each_day_that_a_run_touches_has_its_cap() -> None:
    # 12 hours today, and the rest tomorrow
    assert ask(run(12), day=12, month=100).granted
    assert ask(run(24), day=12, month=100).granted
    assert (
        "day cap: 0.0000 USD are spent or committed in 2026-02-11"
        in ask(run(24.5), day=12, month=100).reason
    )
    tomorrow = run(3, since=NOON + 13 * HOUR)
    assert not ask(run(24), tomorrow, day=12, month=100).granted
    assert ask(run(21), tomorrow, day=12, month=100).granted


def test_a_run_across_the_end_of_the_month_counts_in_both() -> None:
    late = datetime(2026, 2, 28, 20, tzinfo=UTC)
    caps = Caps(10_000_000)

    def spent(window: Window) -> int:
        return 6_000_000 if str(window) == "2026-02" else 0

    assert admit(late, caps, spent, [], run(14, late)) == Admission(True, "", 10.0)
    assert "in 2026-03" in admit(late, caps, spent, [], run(14.1, late)).reason
    assert "in 2026-02" in admit(late, caps, spent, [run(0.1, late)], run(14, late)).reason


def test_just_after_midnight_the_day_before_still_counts() -> None:
    midnight = day_of(NOON).start
    now = midnight + timedelta(seconds=20)
    wanted = Commitment(1_000_000, now + HOUR, now - timedelta(seconds=90), kept_until=NOON)

    def spent(window: Window) -> int:
        return 5_000_000 if window == day_of(midnight - HOUR) else 0

    assert "in 2026-02-09" in admit(now, Caps(10**9, 5_000_000), spent, [], wanted).reason


def test_disks_that_nobody_deletes_fit_into_the_longest_month() -> None:
    disk = Commitment(0, NOON, NOON, kept_hourly=10_000)
    # the rest of February needs 4.44 dollars, March 7.44
    assert admit(NOON, Caps(7_440_000), nothing, [], disk).granted
    assert "in 2026-03" in admit(NOON, Caps(7_430_000), nothing, [], disk).reason


def test_a_machine_without_an_end_takes_the_month() -> None:
    endless = Commitment(10_000, None, NOON)
    assert endless.cost(month_of(NOON)) == (18 * 24 + 12) * 10_000
    assert not ask(run(6), endless, month=10).granted


def test_a_window_that_is_over_its_cap_stops_only_what_adds_to_it() -> None:
    nobody = Commitment(0, NOON + HOUR, NOON)
    assert ask(nobody, spent=11).granted
    assert not ask(run(0.01), spent=11).granted


def test_at_the_egress_cap_nothing_is_launched() -> None:
    caps = Caps(10**9, egress_bytes=10**9)
    assert admit(NOON, caps, nothing, [], run(1), 10**9 - 1).granted
    answer = admit(NOON, caps, nothing, [run(2)], run(1), 10**9)
    assert answer == Admission(
        False,
        "egress cap: 1.00 GB left the cloud in 2026-02, and budget.egress_month_gb allows 1.00",
        2.0,
    )


LIVE = st.lists(st.builds(run, st.floats(0.1, 200), hourly=st.integers(1, 300_000)), max_size=5)


@given(LIVE, st.floats(0.1, 168), st.integers(1, 40), st.none() | st.integers(1, 5))
def test_what_is_granted_fits_into_every_window(
    live: list[Commitment], hours: float, month: int, day: int | None
) -> None:
    wanted = run(hours, hourly=200_000)
    answer = ask(wanted, *live, month=month, day=day)
    fits = True
    for window_of, cap in ((month_of, month), (day_of, day)):
        window = window_of(NOON)
        while cap is not None and window.start < NOON + timedelta(days=10):
            # an independent sum, in which only windows that the machine is in can refuse it
            cost = sum(one.cost(window) for one in [*live, wanted])
            fits &= not wanted.cost(window) or cost <= cap * 1_000_000
            window = window_of(window.end)
    assert answer.granted == fits


def caps_error(cloud: CloudSettings | None = None, **budget: object) -> str | None:
    settings = BudgetSettings.model_validate(budget)
    error = check_caps(settings, PriceTable.of(settings), cloud or CloudSettings())
    return None if error is None else error.message


def test_the_default_caps_are_fine() -> None:
    assert caps_error() is None
    assert caps_error(day_usd=1.0) is None


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            {"month_usd": 0.05},
            "budget.month_usd is 0.05, less than one hour of a spot e2-highmem-4",
        ),
        ({"day_usd": 0.05}, "budget.day_usd is 0.05, less than one hour of"),
        (
            {"month_usd": 1.0},
            "can cost 5.37 USD in one month: a run of cloud.max_run_hours = 4, and 5.10 for its",
        ),
        ({"day_usd": 0.2}, "can cost 0.44 USD in one day"),
    ],
)
def test_caps_that_no_worker_fits_into_are_named(budget: dict[str, float], message: str) -> None:
    assert message in str(caps_error(None, **budget))


def test_a_machine_without_a_price_is_named_by_the_check_too() -> None:
    cloud = CloudSettings(machine_type="a9-mega-1")
    assert "budget.prices.a9-mega-1" in str(caps_error(cloud))
    assert caps_error(cloud, prices={"a9-mega-1": PriceSettings(spot=0.1)}) is None


@pytest.mark.parametrize("hours", [0.5, 4, 30, 168])
def test_caps_that_pass_the_check_admit_a_worker(hours: float) -> None:
    budget = BudgetSettings(month_usd=17.0, day_usd=1.8)
    cloud = CloudSettings(max_run_hours=hours)
    prices = PriceTable.of(budget)
    assert check_caps(budget, prices, cloud) is None
    rates = prices.rates("e2-highmem-4", "spot", 50, True)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    end = start + timedelta(hours=hours, seconds=MARGIN_SECONDS)
    wanted = Commitment(rates.running, end, start, rates.disk)
    assert admit(start, Caps.of(budget), nothing, [], wanted).granted
