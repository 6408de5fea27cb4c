"""A fake cloud, a store and a clock that a test moves, for what launches and watches machines."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.announcements import Announcements
from cluster.events import EventLog
from cluster.gce.client import ComputeClient
from cluster.launch.launcher import Launcher
from cluster.launch.worker_request import HeadFacts, NodeOrder
from cluster.launch.zone_choice import ZoneChoice
from cluster.machines import Vm
from cluster.money.ledger import Ledger
from cluster.money.prices import PriceTable
from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.vm.join_check import HeadVersions
from cluster.vm.startup import HeadAddress
from ironcliw.setting_sections import BudgetSettings, CloudSettings
from ironcliw.store import Store

CLUSTER = "home"
A, B, C, F = (f"us-central1-{letter}" for letter in "abcf")
ORDER = NodeOrder("spot", {"CPU": 4, "spot": 1}, {"ray.io/market-type": "spot"}, "launch-1")
VERSIONS = HeadVersions("3.11.7", "patch", ("ray==2.60.0",), (("ray", "2.60.0"),))
HEAD = HeadFacts(HeadAddress("100.64.0.1", 6379), VERSIONS, "token-of-the-head")


@dataclass
class Cloud:
    """What one process beside the head works with; `restarted` gives it to another one."""

    compute: FakeCompute
    clock: ManualClock
    store: Store
    budget: BudgetSettings = field(default_factory=lambda: BudgetSettings(month_usd=200.0))
    settings: CloudSettings = field(init=False)

    def __post_init__(self) -> None:
        self.settings = self.compute.cloud(vpn="none", join_seconds=300.0)
        self.client = ComputeClient(self.settings, clock=self.clock, sleep=self.clock.sleep)
        self.events = EventLog(self.store, self.now)
        self.ledger = Ledger(self.store, PriceTable.of(self.budget), self.budget, self.now)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)

    def restarted(self) -> Cloud:
        return Cloud(self.compute, self.clock, self.store, self.budget)

    def launcher(self, **changes: Any) -> Launcher:
        parts: dict[str, Any] = {
            "cluster": CLUSTER,
            "settings": self.settings,
            "cloud": self.client,
            "ledger": self.ledger,
            "zones": ZoneChoice(
                self.settings,
                self.store,
                self.client.capacity,
                clock=self.now,
                monotonic=self.clock,
            ),
            "announcements": Announcements(self.events, self.now),
            "head": lambda: HEAD,
            "clock": self.now,
        }
        return Launcher(**{**parts, **changes})

    def vms(self) -> list[Vm]:
        return self.client.list_vms(CLUSTER)

    def live(self) -> dict[str, str]:
        """Names and zones of the machines that work."""
        return {vm.name: vm.zone for vm in self.vms() if vm.is_live}

    def inserts(self, zone: str = "*") -> int:
        return self.compute.count("POST", f"*/zones/{zone}/instances")

    def told(self, *kinds: str) -> list[str]:
        """The messages of the events of some kinds, oldest first."""
        return [event.message for event in reversed(self.events.recent(100, kinds or None))]


def open_store(folder: Path) -> Store:
    store = Store(f"sqlite:///{folder / 'state.db'}")
    store.migrate({"cluster": "cluster.migrations"})
    return store
