"""What the ledger promises on every database: two heads can not both take the last of a budget."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from cluster.machines import Vm, VmRequest, VmStatus
from cluster.money.budget import month_of
from cluster.money.ledger import Ledger
from cluster.money.prices import PriceTable
from ironcliw.setting_sections import BudgetSettings, PriceSettings
from ironcliw.store import Store
from tests.unit.cluster.vm_requests import vm_request

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
BUDGET = BudgetSettings(
    month_usd=10.0,
    prices={"e2-highmem-4": PriceSettings(spot=1.0)},
    disk_gb_month_usd=0.0,
    address_hour_usd=0.0,
)


def request(name: str) -> VmRequest:
    """A machine that costs a dollar at the most, with the margin of 300 s."""
    return vm_request(name=name, max_run_seconds=3300)


@pytest.fixture
def stores(store_url: str) -> Iterator[list[Store]]:
    """Two, as two processes have them."""
    with Store(store_url) as one, Store(store_url) as other:
        one.migrate()
        yield [one, other]


def ledger_of(store: Store) -> Ledger:
    ledger = Ledger(store, PriceTable.of(BUDGET), BUDGET, clock=lambda: NOON)
    ledger.observe([])
    return ledger


def test_the_last_of_a_budget_is_given_once(stores: list[Store]) -> None:
    ledgers = [ledger_of(store) for store in stores for _ in range(3)]
    start = threading.Barrier(len(ledgers))
    granted: list[str] = []

    def reserve(index: int) -> None:
        start.wait(60)
        for count in range(5):
            name = f"vm-{index}-{count}"
            if ledgers[index].reserve(request(name)).granted:
                granted.append(name)

    threads = [threading.Thread(target=reserve, args=(index,)) for index in range(len(ledgers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(granted) == 10
    assert {row.name for row in ledgers[0].intervals(NOON)} == set(granted)


def test_a_life_reads_the_same_everywhere(stores: list[Store]) -> None:
    first, second = map(ledger_of, stores)
    assert first.reserve(request("one")).granted
    vm = Vm(
        name="one",
        zone="us-central1-a",
        machine_type="e2-highmem-4",
        market="spot",
        status=VmStatus.TERMINATED,
        created_at=NOON,
        started_at=NOON,
        stopped_at=NOON,
        max_run_seconds=3300,
        disk_gb=50,
        labels={},
        address="",
        has_external_address=True,
    )
    assert second.observe([vm]).opened == ("one",)
    first.add_use("one", "job/7", 1.5)
    second.add_egress("one", "boot", 5 * 10**9)
    first.add_egress("one", "boot", 6 * 10**9)
    (row,) = first.intervals(NOON)
    assert (row.stopped_at, row.used_by) == (NOON, {"job/7": 1.5})
    assert first.egress_bytes(month_of(NOON)) == 6 * 10**9
    # the minute that is billed at the least, and the egress
    assert second.spent(month_of(NOON)) == pytest.approx(1 / 60 + 0.72, abs=1e-5)
