"""Getting a worker: which zones are asked, what is held, and what is told when there is none."""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster.gce.client import Insertion
from cluster.gce.errors import GceError
from cluster.launch.launcher import LaunchError
from cluster.launch.worker_request import LAUNCH_LABEL
from cluster.machines import CLUSTER_LABEL, TYPE_LABEL, VmRequest
from cluster.tables import save_zone_state
from cluster.testing.catalogue import Catalogue
from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import (
    ApiStorm,
    Denied,
    LostReply,
    OperationFails,
    QuotaExceeded,
    RejectedField,
    Stockout,
)
from cluster.testing.world import World
from ironcliw.errors import NewerFormatError, StoreError
from ironcliw.setting_sections import BudgetSettings
from ironcliw.store import Store
from tests.unit.cluster.clouds import CLUSTER, HEAD, ORDER, A, B, C, Cloud, F, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path)
    yield store
    store.close()


@pytest.fixture
def compute() -> Iterator[FakeCompute]:
    with FakeCompute(World(clock=ManualClock())) as server:
        yield server


@pytest.fixture
def cloud(compute: FakeCompute, store: Store) -> Cloud:
    clock = compute.world.clock
    assert isinstance(clock, ManualClock)
    return Cloud(compute, clock, store)


def reserved(cloud: Cloud) -> list[str]:
    """Machines for which money is held and that nobody has seen."""
    rows = cloud.ledger.intervals(cloud.now() - timedelta(days=1))
    return [row.name for row in rows if row.created_at is None and row.ended_at is None]


class TestOneMachine:
    def test_it_is_made_with_labels_money_and_an_event(self, cloud: Cloud) -> None:
        request = cloud.launcher().launch(ORDER)
        (vm,) = cloud.vms()
        assert (vm.name, vm.zone, vm.market) == (request.name, A, "spot")
        assert vm.labels == {CLUSTER_LABEL: CLUSTER, TYPE_LABEL: "spot", LAUNCH_LABEL: "launch-1"}
        assert vm.max_run_seconds == 4 * 3600
        assert reserved(cloud) == [vm.name]
        assert cloud.told("launch") == [f"machine {vm.name} launched in {A}"]
        (event,) = cloud.events.recent(1)
        # four hours and five minutes of the machine and its address, the disk to the month's end
        assert 2.8 < event.facts["committed_usd"] < 3.1

    def test_its_node_knows_the_zone(self, cloud: Cloud) -> None:
        request = cloud.launcher().launch(ORDER)
        assert '"ray.io/availability-zone": "us-central1-a"' in request.metadata["startup-script"]
        assert HEAD.token not in repr(request)

    def test_a_launch_id_that_gce_refuses_is_left_out(self, cloud: Cloud) -> None:
        request = cloud.launcher().launch(replace(ORDER, launch_id="Launch 1"))
        assert LAUNCH_LABEL not in request.labels

    def test_a_shorter_notice_is_told(self, cloud: Cloud) -> None:
        cloud.compute.world.add(RejectedField())
        cloud.launcher().launch(ORDER)
        assert "refuses a preemption notice of 120 s" in cloud.told("launch")[1]


class TestZones:
    def test_an_empty_zone_is_followed_by_the_next_in_the_same_call(self, cloud: Cloud) -> None:
        cloud.compute.world.add(Stockout(zone=A))
        request = cloud.launcher().launch(ORDER)
        assert request.zone != A
        assert list(cloud.live().values()) == [request.zone]
        assert reserved(cloud) == [request.name]
        (told,) = cloud.told("launch_failed")
        assert f"in {A} failed" in told

    def test_a_zone_that_takes_a_minute_to_refuse_costs_one_more_listing(
        self, cloud: Cloud
    ) -> None:
        """Money is counted by a listing of the last minute."""
        listings: list[float] = []

        class Slow:
            """Refuses the first order after 70 seconds."""

            def listing(self, cluster: str) -> Any:
                listings.append(cloud.clock())
                return cloud.client.listing(cluster)

            def insert(self, request: VmRequest) -> Insertion:
                if len(listings) == 1:
                    cloud.clock.advance(70)
                    raise GceError("no capacity", kind="stockout", code="EMPTY")
                return cloud.client.insert(request)

        cloud.launcher(cloud=Slow()).launch(ORDER)
        assert len(listings) == 2
        assert len(cloud.live()) == 1

    def test_gce_names_the_next_zone(self, cloud: Cloud) -> None:
        cloud.compute.world.add(Stockout(zone=A, hint=(F,)))
        assert cloud.launcher().launch(ORDER).zone == F

    def test_an_empty_zone_is_left_alone_until_its_rest_is_over(self, cloud: Cloud) -> None:
        cloud.compute.world.add(Stockout(zone=A))
        launcher = cloud.launcher()
        for _ in range(20):
            request = launcher.launch(ORDER)
            cloud.client.delete(request.name, request.zone)
            cloud.clock.advance(5)
        assert cloud.inserts(A) == 1

    def test_when_all_rest_nothing_is_called(self, cloud: Cloud) -> None:
        cloud.compute.world.add(Stockout(seconds=60))
        launcher = cloud.launcher()
        with pytest.raises(LaunchError, match="no zone gives a machine now") as caught:
            launcher.launch(ORDER)
        assert caught.value.category == "stockout"
        assert cloud.inserts() == 4
        calls = cloud.compute.count()
        for _ in range(10):
            cloud.clock.advance(5)
            with pytest.raises(LaunchError, match="no capacity") as caught:
                launcher.launch(ORDER)
            assert caught.value.category == "cooldown"
        assert cloud.compute.count() == calls
        cloud.clock.advance(300)
        assert launcher.launch(ORDER).zone == A

    def test_a_new_process_knows_which_zones_rest(self, cloud: Cloud) -> None:
        cloud.compute.world.add(Stockout(seconds=60))
        with pytest.raises(LaunchError, match="no zone"):
            cloud.launcher().launch(ORDER)
        calls = cloud.compute.count()
        with pytest.raises(LaunchError, match="no capacity"):
            cloud.restarted().launcher().launch(ORDER)
        assert cloud.compute.count() == calls

    def test_used_up_quota_ends_the_call(self, cloud: Cloud) -> None:
        cloud.compute.world.add(QuotaExceeded())
        with pytest.raises(LaunchError, match="quota of the region used up") as caught:
            cloud.launcher().launch(ORDER)
        assert caught.value.category == "quota"
        assert cloud.inserts() == 1
        assert reserved(cloud) == []

    def test_advice_is_asked_for_once_in_a_while(self, store: Store) -> None:
        clock = ManualClock()
        catalogue = Catalogue(obtainability={A: 0.1, B: 0.9, C: 0.4})
        with FakeCompute(World(clock=clock, catalogue=catalogue)) as compute:
            cloud = Cloud(compute, clock, store)
            launcher = cloud.launcher()
            assert [launcher.launch(ORDER).zone for _ in range(2)] == [B, B]
            assert compute.count("POST", "*/advice/*") == 4

    def test_damaged_memory_is_dropped(self, cloud: Cloud) -> None:
        save_zone_state(cloud.store, {"format_version": 1, "rests": 3}, cloud.now())
        assert cloud.launcher().launch(ORDER).zone == A

    def test_memory_of_a_newer_release_is_not(self, cloud: Cloud) -> None:
        save_zone_state(cloud.store, {"format_version": 99}, cloud.now())
        with pytest.raises(NewerFormatError, match="format 99"):
            cloud.launcher()

    def test_a_store_that_fails_after_the_insert_does_not_lose_the_machine(
        self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise StoreError("the disk is full")

        monkeypatch.setattr("cluster.launch.zone_choice.save_zone_state", fail)
        launcher = cloud.launcher()
        monkeypatch.setattr(cloud.events, "add", lambda *_, **__: fail())
        request = launcher.launch(ORDER)
        assert list(cloud.live()) == [request.name]


class TestRefusals:
    def test_the_budget_is_asked_before_the_cloud(self, compute: FakeCompute, store: Store) -> None:
        clock = compute.world.clock
        assert isinstance(clock, ManualClock)
        cloud = Cloud(compute, clock, store, BudgetSettings(month_usd=5.5))
        launcher = cloud.launcher()
        launcher.launch(ORDER)
        with pytest.raises(LaunchError, match="month cap") as caught:
            launcher.launch(ORDER)
        assert caught.value.category == "budget"
        assert cloud.inserts() == 1
        (told,) = cloud.told("refused")
        assert re.search(r"month cap: 2\.\d+ USD are spent or committed", told)

    def test_a_refusal_every_five_seconds_is_told_every_five_minutes(
        self, compute: FakeCompute, store: Store
    ) -> None:
        clock = compute.world.clock
        assert isinstance(clock, ManualClock)
        cloud = Cloud(compute, clock, store, BudgetSettings(month_usd=0.5))
        launcher = cloud.launcher()
        for _ in range(120):
            with pytest.raises(LaunchError, match="month cap"):
                launcher.launch(ORDER)
            clock.advance(5)
        assert len(cloud.told("refused")) == 2

    def test_a_full_budget_is_looked_at_every_half_minute(
        self, compute: FakeCompute, store: Store
    ) -> None:
        clock = compute.world.clock
        assert isinstance(clock, ManualClock)
        cloud = Cloud(compute, clock, store, BudgetSettings(month_usd=0.5))
        launcher = cloud.launcher()
        messages = set()
        for _ in range(60):
            with pytest.raises(LaunchError, match="month cap") as caught:
                launcher.launch(ORDER)
            assert caught.value.category == "budget"
            messages.add(caught.value.message)
            clock.advance(1)
        assert len(messages) == 2  # in the words of its last look
        assert compute.count("GET", "*/aggregated/instances") == 2
        # the next look finds what has changed
        richer = replace(launcher, ledger=Cloud(compute, clock, store).ledger)
        assert richer.launch(ORDER).zone == A

    def test_a_clock_that_is_set_back_holds_no_refusal(
        self, compute: FakeCompute, store: Store
    ) -> None:
        clock = compute.world.clock
        assert isinstance(clock, ManualClock)
        cloud = Cloud(compute, clock, store, BudgetSettings(month_usd=0.5))
        behind = [timedelta(0)]
        launcher = cloud.launcher(clock=lambda: cloud.now() - behind[0])
        for seconds in (0, 0, 3600):
            behind[0] = timedelta(seconds=seconds)
            with pytest.raises(LaunchError, match="month cap"):
                launcher.launch(ORDER)
        assert compute.count("GET", "*/aggregated/instances") == 2

    def test_another_kind_of_node_is_not_refused_with_it(
        self, compute: FakeCompute, store: Store
    ) -> None:
        clock = compute.world.clock
        assert isinstance(clock, ManualClock)
        launcher = Cloud(compute, clock, store, BudgetSettings(month_usd=0.5)).launcher()
        for order in (ORDER, replace(ORDER, node_type="other")):
            with pytest.raises(LaunchError, match="month cap"):
                launcher.launch(order)
        assert compute.count("GET", "*/aggregated/instances") == 2

    def test_without_a_listing_nothing_is_launched(self, cloud: Cloud) -> None:
        cloud.compute.world.add(ApiStorm(verbs=("GET",)))
        with pytest.raises(LaunchError, match="list of the machines") as caught:
            cloud.launcher().launch(ORDER)
        assert caught.value.category == "unavailable"
        assert cloud.inserts() == 0

    def test_a_setting_that_is_missing_is_told(self, cloud: Cloud) -> None:
        launcher = cloud.launcher(settings=cloud.settings.model_copy(update={"vpn": "tailscale"}))
        with pytest.raises(LaunchError, match=r"cloud\.vpn_secret") as caught:
            launcher.launch(ORDER)
        assert caught.value.category == "invalid_settings"
        assert cloud.told("launch_failed") == [caught.value.message]
        calls = cloud.compute.count()
        cloud.clock.advance(29)
        with pytest.raises(LaunchError, match=r"cloud\.vpn_secret") as caught:
            launcher.launch(ORDER)
        assert caught.value.category == "invalid_settings"
        assert cloud.compute.count() == calls
        cloud.clock.advance(1)
        with pytest.raises(LaunchError, match=r"cloud\.vpn_secret"):
            launcher.launch(ORDER)
        assert cloud.compute.count() > calls

    def test_refused_credentials_stop_all_launches_for_a_while(self, cloud: Cloud) -> None:
        launcher = cloud.launcher()
        cloud.vms()
        cloud.compute.world.add(Denied(status=403))
        with pytest.raises(LaunchError, match="gcloud auth") as caught:
            launcher.launch(ORDER)
        assert caught.value.category == "auth"

    def test_a_pause_between_promise_and_insert_costs_nothing(self, cloud: Cloud) -> None:
        real = cloud.ledger.reserve

        class Sleepy:
            """The machine sleeps after the reservation."""

            def __getattr__(self, name: str) -> Any:
                return getattr(cloud.ledger, name)

            def reserve(self, request: VmRequest) -> Any:
                answer = real(request)
                cloud.clock.advance(31)
                return answer

        with pytest.raises(LaunchError, match="could not be sent in time"):
            cloud.launcher(ledger=Sleepy()).launch(ORDER)
        assert cloud.inserts() == 0
        assert reserved(cloud) == []


class TestUnknownOutcome:
    def test_an_answer_that_is_lost_holds_the_money_and_asks_nobody_else(
        self, cloud: Cloud
    ) -> None:
        # every reply of an insert is lost, so nobody knows whether there is a machine
        cloud.compute.world.add(LostReply())
        cloud.compute.world.add(ApiStorm(at=0.0, when="created", verbs=("GET", "POST")))
        with pytest.raises(LaunchError, match="insert of") as caught:
            cloud.launcher().launch(ORDER)
        assert caught.value.category == "unavailable"
        assert cloud.inserts(B) + cloud.inserts(C) + cloud.inserts(F) == 0
        (name,) = reserved(cloud)
        assert [each.name for each in cloud.compute.world.instances.values()] == [name]

    def test_a_crash_between_insert_and_reply_doubles_and_loses_nothing(self, cloud: Cloud) -> None:
        class Killed(Exception):
            pass

        class Dying:
            """Its process is killed when the insert was sent."""

            def listing(self, cluster: str) -> Any:
                return cloud.client.listing(cluster)

            def insert(self, request: VmRequest) -> Insertion:
                cloud.client.insert(request)
                raise Killed

        with pytest.raises(Killed):
            cloud.launcher(cloud=Dying()).launch(ORDER)
        again = cloud.restarted()
        (vm,) = again.vms()
        observation = again.ledger.observe([vm])
        assert observation.opened == (vm.name,)
        assert observation.adopted == ()

    def test_a_refused_operation_gives_the_money_back(self, cloud: Cloud) -> None:
        cloud.compute.world.add(OperationFails(code="INTERNAL_MADNESS", times=4))
        with pytest.raises(LaunchError, match="no zone gives a machine"):
            cloud.launcher().launch(ORDER)
        assert reserved(cloud) == []
        assert cloud.live() == {}


def test_threads_never_pass_the_cap(compute: FakeCompute, store: Store) -> None:
    clock = compute.world.clock
    assert isinstance(clock, ManualClock)
    # room for two machines: the disk of each may cost five dollars a month
    cloud = Cloud(compute, clock, store, BudgetSettings(month_usd=11.0))
    launcher = cloud.launcher()
    outcomes: list[str] = []

    def launch() -> None:
        try:
            outcomes.append(launcher.launch(ORDER).zone)
        except LaunchError as error:
            outcomes.append(error.category)

    threads = [threading.Thread(target=launch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("budget") == 4
    assert len(cloud.live()) == 2


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(LaunchError("why", "budget")))
    assert (error.message, error.category) == ("why", "budget")
