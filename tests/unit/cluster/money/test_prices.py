"""What is known of prices, and what the settings put in its place."""

from __future__ import annotations

import pytest

from cluster.machines import Market
from cluster.money.prices import PriceTable, Rates
from ironcliw.errors import SettingsError
from ironcliw.setting_sections import BudgetSettings, PriceSettings

SHIPPED = PriceTable.of(BudgetSettings())


@pytest.mark.parametrize(
    ("name", "market", "usd"),
    [
        ("e2-highmem-4", "spot", 0.0638),
        ("e2-highmem-4", "regular", 0.2128),
        # list prices of whole machines, which the rates of a vCPU and a gigabyte must give
        ("e2-standard-4", "regular", 0.134023),
        ("e2-micro", "regular", 0.008377),
        ("e2-medium", "regular", 0.033506),
        ("n1-standard-4", "regular", 0.189999),
        ("n2-standard-4", "regular", 0.194236),
        ("n2d-standard-4", "regular", 0.168984),
        # no Spot price is shipped: the regular one bounds it
        ("n2-standard-4", "spot", 0.194236),
    ],
)
def test_a_machine_by_the_hour(name: str, market: Market, usd: float) -> None:
    assert SHIPPED.hourly(name, market) == pytest.approx(usd, abs=1.1e-6)


def test_disk_and_address_are_added_and_rounded_up() -> None:
    rates = SHIPPED.rates("e2-highmem-4", "spot", 50, True)
    assert rates == Rates(compute=63_800, disk=6_850, address=2_500)  # 50 x 0.10 / 730 = 0.0068493
    assert rates.running == 66_300
    assert SHIPPED.rates("e2-highmem-4", "regular", 50, False).address == 0
    assert SHIPPED.hourly("e2-highmem-4", "spot", 50, True) == pytest.approx(0.07315)


def test_the_settings_win() -> None:
    table = PriceTable.of(
        BudgetSettings(
            prices={
                "e2-highmem-4": PriceSettings(spot=0.05),
                "a9-mega-1": PriceSettings(regular=3.0),
            },
            disk_gb_month_usd=0.0,
            address_hour_usd=0.004,
            egress_gb_usd=0.5,
        )
    )
    assert table.hourly("e2-highmem-4", "spot", 50) == 0.05
    assert table.hourly("e2-highmem-4", "regular", 50, True) == pytest.approx(0.2168)
    assert table.hourly("a9-mega-1", "spot") == 3.0
    assert table.egress(2_500_000_000) == 1_250_000


def test_a_free_machine_is_free() -> None:
    free = BudgetSettings(prices={"e2-micro": PriceSettings(spot=0.0)})
    assert PriceTable.of(free).hourly("e2-micro", "spot") == 0.0


def test_egress_is_rounded_up() -> None:
    assert SHIPPED.egress(10**9) == 120_000
    assert SHIPPED.egress(1) == 1
    assert SHIPPED.egress(0) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a9-mega-1", r"no price is known: .*'a9-mega-1'.*set budget\.prices\.a9-mega-1\.spot"),
        ("c3-standard-4", r"no price is known for machine type 'c3-standard-4'; set budget"),
    ],
)
def test_a_machine_without_a_price_is_an_error(name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SHIPPED.hourly(name, "spot")
