"""The ledger in a real store: reservations, listings, egress, and wrong clocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.machines import Vm, VmRequest, VmStatus
from cluster.money.budget import day_of, month_of
from cluster.money.intervals import GONE_SECONDS, RESERVATION_SECONDS, STOPPING_SECONDS
from cluster.money.ledger import FRESH_SECONDS, Ledger
from cluster.money.prices import PriceTable
from ironcliw.errors import SettingsError
from ironcliw.setting_sections import BudgetSettings, PriceSettings
from ironcliw.store import Store

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOURLY = {"e2-highmem-4": PriceSettings(spot=1.0, regular=2.0)}
BUDGET = BudgetSettings(
    month_usd=10.0, prices=HOURLY, disk_gb_month_usd=0.0, address_hour_usd=0.0, egress_month_gb=5.0
)


def request(name: str, run: int = 3300, machine_type: str = "e2-highmem-4") -> VmRequest:
    """A machine that costs a dollar at the most, with the margin of 300 s."""
    return VmRequest(
        name=name,
        zone="us-central1-a",
        machine_type=machine_type,
        market="spot",
        labels={},
        metadata={},
        image="",
        disk_gb=50,
        network="",
        subnetwork=None,
        external_address=True,
        service_account=None,
        max_run_seconds=run,
        notice_seconds=30,
        request_id="",
    )


def vm(name: str, created_at: datetime = NOON, machine_type: str = "e2-highmem-4") -> Vm:
    return Vm(
        name=name,
        zone="us-central1-a",
        machine_type=machine_type,
        market="spot",
        status=VmStatus.RUNNING,
        created_at=created_at,
        started_at=created_at,
        stopped_at=None,
        max_run_seconds=3300,
        disk_gb=50,
        labels={},
        address="",
        has_external_address=True,
    )


@dataclass
class Desk:
    """A ledger with a clock that the test sets."""

    store: Store
    budget: BudgetSettings = BUDGET
    now: datetime = NOON
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        prices = PriceTable.of(self.budget)
        self.ledger = Ledger(self.store, prices, self.budget, clock=lambda: self.now)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def reserve(self, *names: str) -> list[bool]:
        return [self.ledger.reserve(request(name)).granted for name in names]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'state.db'}") as store:
        store.migrate()
        yield store


@pytest.fixture
def desk(store: Store) -> Desk:
    desk = Desk(store)
    desk.ledger.observe([])
    return desk


def test_reservations_add_up_to_the_cap_and_outlive_the_process(desk: Desk) -> None:
    assert desk.reserve(*map(str, range(9))) == [True] * 9
    desk.restart()
    desk.ledger.observe([])
    answer = desk.ledger.reserve(request("9"))
    assert answer.granted
    assert answer.committed == pytest.approx(10.0)
    answer = desk.ledger.reserve(request("10"))
    assert not answer.granted
    assert answer.committed == pytest.approx(10.0)
    assert answer.reason.startswith("month cap: 10.0000 USD are spent or committed in 2026-03")


def test_a_refused_insert_gives_its_reservation_back(desk: Desk) -> None:
    desk.reserve(*map(str, range(10)))
    assert desk.ledger.release("3", "no capacity in us-central1-a")
    assert not desk.ledger.release("3", "again")
    assert desk.reserve("3", "11") == [True, False]


def test_a_machine_that_was_seen_is_not_given_back(desk: Desk) -> None:
    desk.reserve("one")
    desk.ledger.observe([vm("one")])
    assert not desk.ledger.release("one", "a mistake")
    assert [row.name for row in desk.ledger.intervals(NOON)] == ["one"]


def test_a_name_is_used_once(desk: Desk) -> None:
    desk.reserve("one")
    assert desk.ledger.reserve(request("one")).reason == "the name one was used before"


def test_before_the_first_listing_nothing_is_granted(desk: Desk) -> None:
    desk.restart()
    assert desk.ledger.reserve(request("one")).reason == (
        "the cloud's machines have not been listed yet"
    )


@pytest.mark.parametrize(("wait", "granted"), [(FRESH_SECONDS, True), (FRESH_SECONDS + 1, False)])
def test_an_old_listing_grants_nothing(desk: Desk, wait: float, granted: bool) -> None:
    desk.wait(wait)
    answer = desk.ledger.reserve(request("one"))
    assert answer.granted is granted
    assert ("last listed 61 s ago; 60 are allowed" in answer.reason) is not granted


@pytest.mark.parametrize("jump", [timedelta(days=40), timedelta(seconds=-1)])
def test_a_clock_that_jumps_grants_nothing_until_the_next_listing(
    desk: Desk, jump: timedelta
) -> None:
    desk.reserve(*map(str, range(9)))
    desk.now += jump
    assert "were last listed" in desk.ledger.reserve(request("late")).reason
    # by the cloud's own time it is still this month, and its money is promised but for one dollar
    desk.ledger.observe([], at=NOON + timedelta(seconds=30))
    assert desk.ledger.now() == NOON + timedelta(seconds=30)
    assert desk.reserve("later") == [True]
    assert "in 2026-03" in desk.ledger.reserve(request("latest")).reason


def test_a_machine_from_the_future_puts_a_slow_clock_right(desk: Desk) -> None:
    desk.ledger.observe([vm("one", created_at=NOON + timedelta(hours=1))])
    assert desk.ledger.now() == NOON + timedelta(hours=1)


def test_a_machine_frees_what_it_did_not_use(desk: Desk) -> None:
    desk.reserve(*map(str, range(10)))
    desk.ledger.observe([vm(str(name)) for name in range(10)])
    desk.wait(900)
    desk.ledger.observe([])
    desk.wait(GONE_SECONDS)
    assert desk.reserve("a") == [False]
    closed = desk.ledger.observe([]).closed
    assert closed == tuple(map(str, range(10)))
    # ten quarters of an hour are spent
    assert desk.ledger.spent(month_of(NOON)) == pytest.approx(2.5)
    assert desk.reserve(*"abcdefgh") == [True] * 7 + [False]


def test_the_cloud_knows_better_when_a_machine_went(desk: Desk) -> None:
    desk.reserve("one")
    desk.ledger.observe([vm("one")])
    desk.ledger.ended("one", NOON)  # the listing says that it is there
    desk.wait(3000)
    desk.ledger.observe([])
    early = NOON + timedelta(seconds=900 - STOPPING_SECONDS)
    desk.ledger.ended("one", early)
    assert desk.ledger.spent(month_of(NOON)) == pytest.approx(0.25)
    desk.ledger.ended("one", early + timedelta(seconds=500))  # never later
    assert desk.ledger.spent(month_of(NOON)) == pytest.approx(0.25)
    desk.ledger.ended("nobody", early)


def test_an_expired_reservation_is_charged_until_it_is_proved_void(desk: Desk) -> None:
    desk.reserve("one")
    desk.wait(RESERVATION_SECONDS)
    assert desk.ledger.observe([]).expired == ("one",)
    assert desk.ledger.spent(month_of(NOON)) == pytest.approx((600 + 90) / 3600, abs=1e-6)
    assert desk.ledger.release("one", "the cloud has no such operation")
    assert desk.ledger.spent(month_of(NOON)) == 0


def test_what_exists_keeps_its_price(desk: Desk) -> None:
    desk.reserve("one")
    dearer = {"e2-highmem-4": PriceSettings(spot=4.0)}
    desk.budget = BUDGET.model_copy(update={"prices": dearer})
    desk.restart()
    desk.ledger.observe([vm("one")])
    desk.wait(1800)
    assert desk.ledger.spent(month_of(NOON)) == pytest.approx(0.5)
    desk.ledger.observe([vm("one")])
    # one dollar is promised at the old price, and two times four fit beside it
    assert desk.reserve("two", "three", "four") == [True, True, False]


def test_a_lowered_cap_shows_in_the_standing(desk: Desk) -> None:
    desk.reserve("one", "two")
    day, month = desk.ledger.standing()
    assert (day.cap, day.over, month.over) == (None, False, False)
    assert month.spent == 0
    assert month.committed == pytest.approx(2.0)
    desk.budget = BUDGET.model_copy(update={"month_usd": 1.5, "day_usd": 3.0})
    desk.restart()
    day, month = desk.ledger.standing()
    assert (day.window, day.cap, day.over) == (day_of(NOON), 3.0, False)
    assert (month.cap, month.over) == (1.5, True)


def test_a_full_budget_is_not_over(desk: Desk) -> None:
    desk.reserve(*map(str, range(10)))
    assert not desk.ledger.standing()[1].over
    desk.ledger.observe([vm(str(name)) for name in range(10)])
    assert not desk.ledger.standing()[1].over
    desk.ledger.add_egress("1", "boot", 10**8)
    assert desk.ledger.standing()[1].over


def test_egress_is_metered_by_counters(desk: Desk) -> None:
    gigabyte = 10**9
    for counter in (gigabyte, gigabyte, 2 * gigabyte, gigabyte // 2):  # the last: it booted again
        desk.ledger.add_egress("one", "boot", counter)
    desk.ledger.add_egress("two", "boot", gigabyte)
    today, month = day_of(NOON), month_of(NOON)
    assert desk.ledger.egress_bytes(today) == 3_500_000_000
    desk.wait(86_400)
    desk.ledger.add_egress("two", "boot", 2 * gigabyte)
    assert desk.ledger.egress_bytes(today) == 3_500_000_000
    assert desk.ledger.egress_bytes(month) == 4_500_000_000
    assert desk.ledger.spent(month) == pytest.approx(4.5 * 0.12)


def test_another_boot_is_another_meter(desk: Desk) -> None:
    desk.ledger.add_egress("one", "first", 5 * 10**9)
    for _ in range(2):
        desk.ledger.add_egress("one", "second", 6 * 10**9)
    assert desk.ledger.egress_bytes(day_of(NOON)) == 11 * 10**9
    desk.wait(86_400)
    desk.ledger.add_egress("one", "third", 6 * 10**9)
    assert desk.ledger.egress_bytes(month_of(NOON)) == 17 * 10**9
    desk.ledger.add_egress("one", "third", 7 * 10**9)
    assert desk.ledger.egress_bytes(month_of(NOON)) == 18 * 10**9


def test_egress_at_its_cap_stops_launching_until_the_next_month(desk: Desk) -> None:
    desk.ledger.add_egress("one", "boot", 5 * 10**9)
    assert desk.ledger.reserve(request("a")).reason.startswith(
        "egress cap: 5.00 GB left the cloud in 2026-03"
    )
    desk.now = datetime(2026, 4, 1, 0, 5, tzinfo=UTC)
    desk.ledger.observe([])
    assert desk.reserve("a") == [True]


def test_egress_counts_as_spent(desk: Desk) -> None:
    desk.ledger.add_egress("one", "boot", 10**9)
    assert desk.reserve(*map(str, range(10))) == [True] * 9 + [False]


def test_a_machine_without_a_price_stops_launching(desk: Desk) -> None:
    desk.ledger.observe([vm("strange", machine_type="a9-mega-1")])
    assert desk.ledger.reserve(request("one")).reason == (
        "machine strange has no price: set budget.prices.a9-mega-1"
    )
    with pytest.raises(SettingsError, match=r"budget\.prices\.a9-mega-1"):
        desk.ledger.reserve(request("two", machine_type="a9-mega-1"))


def test_use_is_noted_on_the_machine(desk: Desk) -> None:
    desk.reserve("one")
    desk.ledger.add_use("one", "job/7", 30.0)
    desk.ledger.add_use("one", "job/7", 12.5)
    desk.ledger.add_use("one", "deployment/embed", 1.0)
    desk.ledger.add_use("nobody", "job/7", 1.0)
    desk.ledger.observe([vm("one")])
    (row,) = desk.ledger.intervals(NOON)
    assert row.used_by == {"job/7": 42.5, "deployment/embed": 1.0}


def test_a_row_is_read_as_it_was_written(desk: Desk) -> None:
    desk.reserve("one")
    stopped = replace(vm("one"), status=VmStatus.TERMINATED, stopped_at=NOON)
    desk.ledger.observe([stopped])
    desk.wait(1)
    desk.ledger.observe([])
    (row,) = desk.ledger.intervals(NOON)
    assert (row.zone, row.market, row.disk_gb, row.max_run_seconds) == (
        "us-central1-a",
        "spot",
        50,
        3300,
    )
    assert (row.reserved_at, row.created_at, row.started_at) == (NOON, NOON, NOON)
    assert (row.stopped_at, row.missing_since) == (NOON, NOON + timedelta(seconds=1))
    assert (row.ended_at, row.deadline) == (None, NOON + timedelta(hours=1))


def test_many_machines_are_listed_at_once(desk: Desk) -> None:
    crowd = [vm(f"vm-{count}") for count in range(1200)]
    assert len(desk.ledger.observe(crowd).adopted) == 1200
    assert desk.ledger.observe(crowd).adopted == ()
