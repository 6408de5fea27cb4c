"""What is read of machines and money, from a real store and the controller's report."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from actors import fleet_facts
from actors.fleet_facts import FleetFacts
from actors.situation import STALE_SECONDS, HomeFacts, MachineFacts
from cluster.control.report import ControllerReport, Worker, write_report
from cluster.events import EventLog
from cluster.money.ledger import Ledger
from cluster.money.prices import PriceTable
from ironcliw.settings import Settings, load_settings
from ironcliw.store import Store
from tests.unit.cluster.vm_requests import vm_request

NOW = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class World:
    """A store, and facts whose Ray is a dictionary."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **sections: Any) -> None:
        self.settings: Settings = load_settings(state_dir=str(folder), **sections)
        self.store = Store(self.settings.store_url)
        self.store.migrate()
        self.clock = Clock()
        self.nodes: dict[str, MachineFacts] = {}
        self.available = 10.0
        monkeypatch.setattr(fleet_facts, "_joined", lambda before, now: dict(self.nodes))
        monkeypatch.setattr(fleet_facts, "_head", lambda: HomeFacts(16.0, self.available, 8.0))
        self.held = {"f": 0.5}
        monkeypatch.setattr(fleet_facts, "held_by_steps", lambda: dict(self.held))
        self.facts = FleetFacts(self.settings, self.store, self.clock)

    def read(self, after: float = 2.0) -> bool:
        self.clock.now += after
        return self.facts.read()

    def report(self, *workers: Worker) -> None:
        at = datetime.fromtimestamp(self.clock.now, UTC)
        write_report(self.settings.state_dir, ControllerReport(at, workers, True))


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(
        tmp_path, monkeypatch, cloud={"project": "p"}, budget={"day_usd": 2.0, "month_usd": 20.0}
    )
    yield world
    world.store.close()


def test_without_a_cloud_only_memory_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, monkeypatch)
    assert (world.facts.has_cloud, world.facts.most_machines) == (False, 0)
    assert not world.read()
    world.available = 10.4
    assert not world.read(), "that is noise"
    world.available = 6.0
    assert not world.read(), "less is nothing to wait for"
    world.available = 6.6
    assert world.read()
    assert not world.read(), "told once"
    assert world.facts.money() is None
    world.store.close()


def test_what_steps_hold_is_part_of_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, monkeypatch)
    assert world.facts.home().held_gb is None, "nobody has looked yet"
    world.read()
    assert world.facts.home().held_gb == {"f": 0.5}
    world.store.close()


def test_money_is_the_ledgers(cloud: World) -> None:
    assert cloud.facts.money() is None
    assert cloud.read(), "a step may have waited for it"
    money = cloud.facts.money()
    assert money is not None
    assert money.price_per_hour == pytest.approx(0.0638 + 0.0025 + 50 * 0.1 / 730, rel=1e-3)
    assert (money.day_cap, money.month_cap, money.day_left) == (2.0, 20.0, 2.0)
    assert money.no_purchase == ""
    assert not cloud.read()


def test_a_machine_that_the_ledger_would_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, monkeypatch, cloud={"project": "p"}, budget={"day_usd": 0.2})
    world.read()
    money = world.facts.money()
    assert money is not None
    assert "the ledger would refuse a machine: 0.00 USD of the day's 0.20 are" in money.no_purchase
    world.store.close()


def test_machines_that_join_start_and_leave_are_events(cloud: World) -> None:
    cloud.read()
    cloud.report(Worker("w1", "us-central1-a", "STAGING", "none", None))
    assert cloud.read()
    [machine] = cloud.facts.machines()
    assert (machine.node, machine.state, machine.cores) == ("", "booting", 4.0)
    assert machine.memory_gb == pytest.approx(32 * 1.073741824 - 2.0)
    cloud.report(Worker("w1", "us-central1-a", "RUNNING", "joined", 0.0))
    ready = MachineFacts("n1", "ready", NOW, 30.0, 30.0, 4.0)
    cloud.nodes = {"n1": ready}
    assert cloud.read()
    assert cloud.facts.machines() == [ready]
    assert not cloud.read()
    cloud.nodes = {"n1": MachineFacts("n1", "leaving", NOW, 30.0, 30.0, 4.0)}
    assert cloud.read()
    cloud.nodes = {}
    assert cloud.read()
    assert cloud.facts.machines() == []


def test_a_machine_that_joined_after_the_report_is_not_counted_twice(cloud: World) -> None:
    cloud.report(*(Worker(name, "us-central1-a", "STAGING", "none", None) for name in ("w1", "w2")))
    cloud.read()
    first, second = cloud.facts.machines()
    cloud.nodes = {"n1": MachineFacts("n1", "ready", cloud.clock.now + 2.0, 30.0, 30.0, 4.0)}
    cloud.read()
    assert [one.node for one in cloud.facts.machines()] == ["n1", ""], "one of both has joined"
    cloud.report(Worker("w2", "us-central1-a", "STAGING", "none", None))
    cloud.read()
    assert [one.node for one in cloud.facts.machines()] == ["n1", ""], "the report knows it"
    assert (first.state, second.state) == ("booting", "booting")


def test_a_machine_that_starts_comes_nearer(cloud: World) -> None:
    cloud.read()
    first = cloud.clock.now + 2.0
    for _ in range(3):
        cloud.report(Worker("w1", "us-central1-a", "STAGING", "none", None))
        cloud.read()
        assert [one.since for one in cloud.facts.machines()] == [first], "not since the last look"
    second = cloud.clock.now + 2.0
    cloud.report(*(Worker(name, "us-central1-a", "STAGING", "none", None) for name in ("w2", "w1")))
    assert cloud.read()
    assert [one.since for one in cloud.facts.machines()] == [first, second], "the oldest first"


def test_a_machine_that_starts_is_as_old_as_its_order(cloud: World) -> None:
    ordered = NOW - 70.0
    moment = datetime.fromtimestamp(ordered, UTC)
    ledger = Ledger(
        cloud.store, PriceTable.of(cloud.settings.budget), cloud.settings.budget, lambda: moment
    )
    ledger.observe([])
    assert ledger.reserve(vm_request(name="w1")).granted
    cloud.report(Worker("w1", "us-central1-a", "STAGING", "none", None))
    cloud.read()
    assert [one.since for one in cloud.facts.machines()] == [ordered], "as after a new start"


def test_a_controller_that_is_silent_says_nothing(cloud: World) -> None:
    cloud.report(Worker("w1", "us-central1-a", "STAGING", "none", None))
    cloud.read(61.0)
    assert cloud.facts.machines() == []


def test_what_could_not_be_read_for_long_is_an_event_when_it_can(cloud: World) -> None:
    cloud.read()
    assert not cloud.read()
    assert cloud.read(STALE_SECONDS + 1.0)
    assert cloud.facts.age == 0.0


def test_losses_and_refusals_are_counted(cloud: World) -> None:
    moment = datetime.fromtimestamp(NOW, UTC)
    log = EventLog(cloud.store, lambda: moment - timedelta(hours=1))
    log.add("preempted", "machine w1 was taken back", name="w1")
    log.add("launch_failed", "no capacity")
    EventLog(cloud.store, lambda: moment - timedelta(days=90)).add("preempted", "long ago")
    cloud.read()
    money = cloud.facts.money()
    assert money is not None
    assert (money.losses, money.refused_at) == (1, NOW - 3600.0)
