"""What machines, disks, addresses and egress cost.

The table is of us-central1, in US dollars. e2-highmem-4 has the rates that the project was planned
with; for a regular one Google lists 0.1808 an hour, so the planned rate errs on the safe side.
The others are list prices: https://cloud.google.com/compute/vm-instance-pricing, .../disks-image-
pricing and https://cloud.google.com/vpc/network-pricing, unchanged from 2024-02-01 (addresses) or
earlier. Spot prices move, up to once a month, and are not listed: a type without a known one counts
as dear as a regular machine, which Spot never passes. Your own bill is better than any table: put
its rates into `budget.prices`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from cluster.machines import Market, machine_type
from ironcliw.errors import ClusterError, SettingsError
from ironcliw.setting_sections import BudgetSettings

MICRO = 1_000_000
"""Micro-dollars in a dollar, the unit of the ledger."""
HOURS_A_MONTH = 730
"""Google's month, by which the monthly price of a disk becomes an hourly one."""
GIGABYTE = 10**9
"""Egress is billed by 2**30 bytes; counting 10**9 errs towards the cap."""

PLANNED = {"e2-highmem-4": {"spot": 0.0638, "regular": 0.2128}}
"""Machine type -> market -> US dollars an hour."""
# series -> US dollars an hour of (a vCPU, a gigabyte of memory), regular
_SERIES = {
    "n1": (0.031611, 0.004237),
    "n2": (0.031611, 0.004237),
    "n2d": (0.027502, 0.003686),
    "t2d": (0.027502, 0.003686),
    "e2": (0.02181159, 0.00292353),
}
DISK_GB_MONTH = 0.10  # of `cluster.machines.DISK_TYPE`, pd-balanced
ADDRESS_HOUR = {"spot": 0.0025, "regular": 0.005}  # external, in use
EGRESS_GB = 0.12  # premium tier from North America, first terabyte


@dataclass(frozen=True, slots=True)
class Rates:
    """Micro-dollars an hour of one machine.

    Attributes:
        compute: vCPUs and memory, while it is not stopped.
        disk: Until it is deleted.
        address: Its external address, while it is not stopped.
    """

    compute: int
    disk: int
    address: int

    @property
    def running(self) -> int:
        """What a stop ends."""
        return self.compute + self.address


@dataclass(frozen=True, slots=True)
class PriceTable:
    """The shipped table, with what the settings put in its place."""

    budget: BudgetSettings

    @classmethod
    def of(cls, budget: BudgetSettings) -> PriceTable:
        """The table under these settings."""
        return cls(budget)

    def hourly(
        self, type_name: str, market: Market, disk_gb: int = 0, external_address: bool = False
    ) -> float:
        """US dollars an hour of a running machine, for people; `rates` is exact.

        Raises:
            SettingsError: No price is known for the type; the message says how to give one.
        """
        rates = self.rates(type_name, market, disk_gb, external_address)
        return (rates.running + rates.disk) / MICRO

    def rates(self, type_name: str, market: Market, disk_gb: int, external_address: bool) -> Rates:
        """The same in its parts, each rounded up.

        Raises:
            SettingsError: No price is known for the type; the message says how to give one.
        """
        budget = self.budget
        month = DISK_GB_MONTH if budget.disk_gb_month_usd is None else budget.disk_gb_month_usd
        own = budget.address_hour_usd
        address = ADDRESS_HOUR[market] if own is None else own
        return Rates(
            _micro(self._compute(type_name, market)),
            _micro(Fraction(str(month)) * disk_gb / HOURS_A_MONTH),
            _micro(address) if external_address else 0,
        )

    def egress(self, count: int) -> int:
        """Micro-dollars for bytes that leave the cloud, rounded up."""
        own = self.budget.egress_gb_usd
        return -(-_micro(EGRESS_GB if own is None else own) * count // GIGABYTE)

    def _compute(self, type_name: str, market: Market) -> float | Fraction:
        own = self.budget.prices.get(type_name)
        planned = PLANNED.get(type_name, {})
        # a Spot machine never costs more than a regular one: the second price bounds the first
        for wanted in dict.fromkeys((market, "regular")):
            given = getattr(own, wanted, None)
            if given is not None:
                return float(given)
            if wanted in planned:
                return planned[wanted]
        return _listed(type_name)


def _listed(type_name: str) -> Fraction:
    """US dollars an hour by the price list, regular."""
    advice = f"set budget.prices.{type_name}.spot and .regular, in US dollars an hour"
    try:
        machine = machine_type(type_name)
    except ClusterError as error:
        raise SettingsError(f"no price is known: {error}; if it exists, {advice}") from error
    series = _SERIES.get(type_name.partition("-")[0])
    if series is None:
        raise SettingsError(f"no price is known for machine type {type_name!r}; {advice}")
    # shared-core types get a part of each vCPU and pay for that part: 1/8, 1/4 and 1/2 of two
    share = {"e2-micro": Fraction(1, 8), "e2-small": Fraction(1, 4), "e2-medium": Fraction(1, 2)}
    cpus = machine.cpus * share.get(type_name, Fraction(1))
    cpu, gigabyte = (Fraction(str(price)) for price in series)
    return cpus * cpu + Fraction(str(machine.memory_gb)) * gigabyte


def _micro(usd: float | Fraction) -> int:
    """Whole micro-dollars, rounded up; through the decimal text, 0.0638 being no binary number."""
    exact = usd if isinstance(usd, Fraction) else Fraction(str(usd))
    return math.ceil(exact * MICRO)
