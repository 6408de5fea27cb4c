"""Two heads with one cluster name in one project: neither touches the machines of the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.config import HEAD_INSTANCE_ID
from cluster.control.teardown import delete_all
from cluster.events import EventLog
from cluster.gce.client import ComputeClient
from cluster.head.head_id import head_id, read_head_id
from cluster.head.record import record_path
from cluster.machines import HEAD_LABEL
from cluster.provider import GceSpotProvider
from cluster.tables import cluster_vms
from cluster.testing.clocks import ManualClock
from cluster.testing.crashes import settings_for
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.launching import launch, provider_of
from cluster.testing.world import World
from ironcliw.errors import ClusterError
from ironcliw.settings import Settings
from ironcliw.store import Store

NAME = "ironcliw"


@pytest.fixture
def clock() -> ManualClock:
    # the provider counts time by the machine's own clock
    return ManualClock(time.time())


@pytest.fixture
def compute(clock: ManualClock) -> Iterator[FakeCompute]:
    with FakeCompute(World(clock=clock)) as server:
        yield server


@dataclass
class Head:
    """A state directory, and the provider that works from it."""

    settings: Settings
    client: ComputeClient
    provider: GceSpotProvider

    @classmethod
    def of(cls, compute: FakeCompute, clock: ManualClock, folder: Path) -> Head:
        settings = settings_for(compute, folder)
        client = ComputeClient(settings.cloud, clock=clock, sleep=clock.sleep)
        return cls(settings, client, provider_of(settings, client=client))

    def workers(self) -> list[str]:
        listed = self.provider.non_terminated_nodes({})
        return [name for name in listed if name != HEAD_INSTANCE_ID]

    def told(self, kind: str) -> list[str]:
        with Store(self.settings.store_url) as store:
            return [event.message for event in EventLog(store).recent(50, [kind])]

    def open_rows(self) -> list[str]:
        with Store(self.settings.store_url) as store, store.read() as connection:
            return [row.name for row in connection.execute(cluster_vms.select())]


@pytest.fixture
def heads(compute: FakeCompute, clock: ManualClock, tmp_path: Path) -> tuple[Head, Head]:
    one, other = (Head.of(compute, clock, tmp_path / name) for name in ("one", "other"))
    for head in (one, other):
        launch(head.provider, head.settings)
    clock.advance(1)
    return one, other


class TestTwoHeads:
    def test_a_machine_says_which_head_ordered_it(self, heads: tuple[Head, Head]) -> None:
        for head in heads:
            (name,) = head.workers()
            (vm,) = [one for one in head.client.list_vms(NAME) if one.name == name]
            assert vm.labels[HEAD_LABEL] == head_id(head.settings.state_dir)

    def test_each_provider_lists_its_own_alone(self, heads: tuple[Head, Head]) -> None:
        one, other = heads
        assert len(one.client.list_vms(NAME)) == 2
        assert len(one.workers()) == len(other.workers()) == 1
        assert one.workers() != other.workers()

    def test_a_provider_does_not_delete_by_a_foreign_name(
        self, heads: tuple[Head, Head], clock: ManualClock
    ) -> None:
        one, other = heads
        one.provider.terminate_nodes(other.workers())
        clock.advance(10)
        assert len(other.workers()) == 1

    def test_the_ledger_counts_its_own_alone(self, heads: tuple[Head, Head]) -> None:
        one, other = heads
        launch(other.provider, other.settings)  # it lists and observes first
        assert sorted(other.open_rows()) == other.workers()
        assert one.open_rows() == one.workers()

    def test_the_other_ones_are_told_once(self, heads: tuple[Head, Head]) -> None:
        one, other = heads
        for _ in range(3):
            one.workers()
        (message,) = one.told("foreign")
        assert message.startswith(f"machine {other.workers()[0]} in us-central1-")
        assert f"it belongs to the head {head_id(other.settings.state_dir)}" in message
        assert "left alone" in message

    def test_down_deletes_its_own_alone(
        self, heads: tuple[Head, Head], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, other = heads
        monkeypatch.setattr("cluster.control.teardown._POLL_SECONDS", 0.0)
        monkeypatch.setattr("cluster.control.teardown.ComputeClient", lambda _: one.client)
        delete_all(one.settings)
        clock.advance(10)
        assert one.workers() == []
        assert len(other.workers()) == 1

    def test_a_restarted_head_is_the_same(
        self, heads: tuple[Head, Head], compute: FakeCompute, clock: ManualClock
    ) -> None:
        one, _ = heads
        again = Head.of(compute, clock, one.settings.state_dir)
        assert again.workers() == one.workers()


class TestHeadId:
    def test_it_is_made_once_and_kept(self, tmp_path: Path) -> None:
        folder = tmp_path / "state"
        assert read_head_id(folder) is None
        made = head_id(folder)
        assert len(made) == 8
        assert int(made, 16) >= 0
        assert head_id(folder) == read_head_id(folder) == made
        assert [path.name for path in folder.iterdir()] == ["head_id"]
        assert not record_path(folder).exists()

    def test_two_folders_have_two(self, tmp_path: Path) -> None:
        assert head_id(tmp_path / "a") != head_id(tmp_path / "b")

    def test_all_who_ask_at_once_are_given_the_same(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(16) as pool:
            for count in range(20):
                found = set(pool.map(head_id, [tmp_path / str(count)] * 16))
                assert len(found) == 1

    def test_a_damaged_one_is_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "head_id").write_text("not an id")
        with pytest.raises(ClusterError, match=r"head_id is damaged: .*'not an id'.*ironcliw-head"):
            head_id(tmp_path)
