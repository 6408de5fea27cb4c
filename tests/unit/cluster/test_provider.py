"""The node provider: what Ray's autoscaler sees of the cloud, and what it makes it do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_LAUNCH_REQUEST, TAG_RAY_USER_NODE_TYPE
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter
from ray.core.generated.instance_manager_pb2 import NodeKind

from cluster.config import HEAD_INSTANCE_ID, SPOT_TYPE, render
from cluster.events import EventLog
from cluster.gce.client import ComputeClient, GceError
from cluster.head.ray_environment import token_path
from cluster.head.record import ensure_token
from cluster.machines import CLUSTER_LABEL
from cluster.provider import GceSpotProvider
from cluster.testing.clocks import ManualClock
from cluster.testing.fake_compute import FakeCompute
from cluster.testing.faults import ApiStorm, Denied, Preempt, Stockout
from cluster.testing.world import World
from ironcliw.errors import ClusterError, SettingsError, UnsupportedError
from ironcliw.settings import Settings, load_settings
from ironcliw.store import Store

from .clouds import VERSIONS, A

CLUSTER_NAME = "ironcliw"
TAGS = {TAG_RAY_USER_NODE_TYPE: SPOT_TYPE, TAG_RAY_LAUNCH_REQUEST: "launch-1"}
RESOURCES = {"CPU": 4, "spot": 1}


@pytest.fixture(autouse=True)
def second_autoscaler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._config", SimpleNamespace(enable_autoscaler_v2=lambda: True))
    monkeypatch.setattr(
        "cluster.provider.head_versions", lambda match: replace(VERSIONS, match=match)
    )


@pytest.fixture
def clock() -> ManualClock:
    # the provider counts time by the machine's own clock
    return ManualClock(time.time())


@pytest.fixture
def compute(clock: ManualClock) -> Iterator[FakeCompute]:
    with FakeCompute(World(clock=clock)) as server:
        yield server


@pytest.fixture
def settings(compute: FakeCompute) -> Settings:
    cloud = compute.cloud(vpn="none").model_dump()
    settings = load_settings().model_copy(update={"cloud": compute.cloud(vpn="none")})
    assert settings.cloud.model_dump() == cloud
    ensure_token(token_path(settings))
    return settings


@pytest.fixture
def make(
    compute: FakeCompute, clock: ManualClock, settings: Settings
) -> Callable[..., GceSpotProvider]:
    def provider(**changes: Any) -> GceSpotProvider:
        config = {**render(settings)["provider"], **changes}
        client = ComputeClient(settings.cloud, clock=clock, sleep=clock.sleep)
        return GceSpotProvider(config, CLUSTER_NAME, client=client)

    return provider


@pytest.fixture
def provider(make: Callable[..., GceSpotProvider]) -> GceSpotProvider:
    return make()


def create(provider: GceSpotProvider, count: int = 1) -> list[str]:
    provider.create_node_with_resources_and_labels({}, TAGS, count, RESOURCES, {})
    return workers(provider)


def workers(provider: GceSpotProvider) -> list[str]:
    return [node for node in provider.non_terminated_nodes({}) if node != HEAD_INSTANCE_ID]


def told(settings: Settings, kind: str) -> list[str]:
    with Store(settings.store_url) as store:
        return [event.message for event in EventLog(store).recent(50, [kind])]


class TestListing:
    def test_the_head_is_always_there(self, provider: GceSpotProvider) -> None:
        assert provider.non_terminated_nodes({}) == [HEAD_INSTANCE_ID]
        assert provider.is_running(HEAD_INSTANCE_ID)
        assert not provider.is_terminated(HEAD_INSTANCE_ID)
        assert provider.node_tags(HEAD_INSTANCE_ID)["ray-node-type"] == "head"

    def test_a_worker_is_known_by_its_labels(self, provider: GceSpotProvider) -> None:
        (name,) = create(provider)
        tags = provider.node_tags(name)
        assert tags["ray-node-type"] == "worker"
        assert tags["ray-user-node-type"] == "spot"
        assert tags["ray-launch-request"] == "launch-1"
        assert provider.internal_ip(name).startswith("10.128.")
        assert provider.non_terminated_nodes({"ray-node-type": "worker"}) == [name]

    def test_a_new_autoscaler_finds_the_machines_of_the_old_one(
        self, provider: GceSpotProvider, make: Callable[..., GceSpotProvider]
    ) -> None:
        (name,) = create(provider)
        again = make()
        assert workers(again) == [name]
        assert again.node_tags(name) == provider.node_tags(name)

    def test_one_that_boots_is_listed_and_does_not_run(
        self, provider: GceSpotProvider, compute: FakeCompute, clock: ManualClock
    ) -> None:
        (name,) = create(provider)
        compute.world.named(name)
        clock.advance(1)
        assert workers(provider) == [name]
        assert provider.is_running(name)

    def test_one_that_is_taken_back_is_gone_for_ray(
        self, provider: GceSpotProvider, compute: FakeCompute, clock: ManualClock
    ) -> None:
        (name,) = create(provider)
        clock.advance(1)
        compute.world.add(Preempt(notice=0))
        clock.advance(10)
        assert workers(provider) == []
        assert provider.is_terminated(name)
        assert not provider.is_running(name)

    def test_one_that_turned_itself_off_is_gone_for_ray_and_listed_by_the_cloud(
        self, provider: GceSpotProvider, compute: FakeCompute, clock: ManualClock
    ) -> None:
        (name,) = create(provider)
        clock.advance(1)
        instance = compute.world.named(name)
        assert instance is not None
        compute.world.power_off(instance)
        clock.advance(10)
        assert workers(provider) == []
        assert provider.is_terminated(name)
        assert compute.world.named(name) is not None

    def test_one_list_a_round(self, provider: GceSpotProvider, compute: FakeCompute) -> None:
        create(provider, 2)
        before = compute.count()
        for node in provider.non_terminated_nodes({}):
            provider.node_tags(node)
            provider.is_running(node)
        assert compute.count() == before + 1

    @pytest.mark.parametrize("fault", [ApiStorm(), Denied(status=401)])
    def test_no_answer_is_an_error_and_never_an_empty_list(
        self, provider: GceSpotProvider, compute: FakeCompute, clock: ManualClock, fault: Any
    ) -> None:
        create(provider)
        compute.world.add(fault)
        began = clock()
        with pytest.raises(GceError, match="list of the machines"):
            provider.non_terminated_nodes({})
        assert clock() - began < 10

    def test_an_unknown_node_is_named(self, provider: GceSpotProvider) -> None:
        with pytest.raises(ClusterError, match="lacks ironcliw-0"):
            provider.node_tags("ironcliw-0")

    def test_a_machine_without_a_type_is_not_rays(
        self, provider: GceSpotProvider, compute: FakeCompute
    ) -> None:
        (name,) = create(provider)
        instance = compute.world.named(name)
        assert instance is not None
        instance.body["labels"] = {CLUSTER_LABEL: CLUSTER_NAME}
        assert workers(provider) == [name]
        assert provider.node_tags(name)["ray-node-type"] == "unmanaged"


class TestTermination:
    def test_a_machine_is_deleted_once_or_more(
        self, provider: GceSpotProvider, clock: ManualClock, settings: Settings
    ) -> None:
        (name,) = create(provider)
        for _ in range(3):
            provider.terminate_nodes([name])
        clock.advance(10)
        assert workers(provider) == []
        provider.terminate_nodes([name, "ironcliw-never"])
        (message,) = told(settings, "deleted")
        assert message == f"machine {name} in {A} is deleted by the autoscaler"

    def test_a_new_autoscaler_can_delete_before_its_first_listing(
        self,
        provider: GceSpotProvider,
        make: Callable[..., GceSpotProvider],
        clock: ManualClock,
    ) -> None:
        (name,) = create(provider)
        make().terminate_node(name)
        clock.advance(10)
        assert workers(provider) == []

    def test_one_failure_does_not_save_the_others(
        self, provider: GceSpotProvider, compute: FakeCompute, clock: ManualClock
    ) -> None:
        names = create(provider, 2)
        with pytest.raises(ClusterError, match="the head is this machine"):
            provider.terminate_nodes([HEAD_INSTANCE_ID, *names])
        clock.advance(10)
        assert workers(provider) == []

    def test_a_storm_is_an_error(self, provider: GceSpotProvider, compute: FakeCompute) -> None:
        names = create(provider)
        compute.world.add(ApiStorm(verbs=("DELETE",)))
        with pytest.raises(GceError, match="delete of"):
            provider.terminate_nodes(names)


class TestLaunch:
    def test_rays_error_says_why(self, provider: GceSpotProvider, compute: FakeCompute) -> None:
        compute.world.add(Stockout())
        with pytest.raises(NodeLaunchException, match="no capacity") as caught:
            create(provider)
        assert caught.value.category == "stockout"

    def test_those_before_a_failure_stay(
        self, provider: GceSpotProvider, compute: FakeCompute
    ) -> None:
        compute.world.add(Stockout(when="created", count=2))
        with pytest.raises(NodeLaunchException, match="no capacity"):
            create(provider, 3)
        assert len(workers(provider)) == 2

    def test_a_worker_is_told_the_head(
        self, provider: GceSpotProvider, compute: FakeCompute, settings: Settings
    ) -> None:
        (name,) = create(provider)
        instance = compute.world.named(name)
        assert instance is not None
        assert (
            f"HEAD=127.0.0.1:{settings.cluster.gcs_port}\n" in instance.metadata["startup-script"]
        )
        assert instance.metadata["ironcliw-token"] == token_path(settings).read_text()

    @pytest.mark.parametrize("level", [None, "minor"])
    def test_a_worker_is_told_how_much_of_python_must_agree(
        self,
        provider: GceSpotProvider,
        compute: FakeCompute,
        monkeypatch: pytest.MonkeyPatch,
        level: str | None,
    ) -> None:
        """By the variable that Ray and the doctor read."""
        if level is not None:
            monkeypatch.setenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", level)
        (name,) = create(provider)
        instance = compute.world.named(name)
        assert instance is not None
        script = instance.metadata["startup-script"]
        assert f"RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL={level or 'patch'}\n" in script

    def test_the_first_autoscalers_call_is_refused(self, provider: GceSpotProvider) -> None:
        with pytest.raises(UnsupportedError, match="first autoscaler"):
            provider.create_node({}, {}, 1)


class TestStart:
    def test_the_first_autoscaler_is_refused(
        self, make: Callable[..., GceSpotProvider], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ray._config", SimpleNamespace(enable_autoscaler_v2=lambda: False))
        with pytest.raises(UnsupportedError, match="RAY_enable_autoscaler_v2=1"):
            make()

    @pytest.mark.parametrize(
        "changes", [{"head": {}}, {"cloud": {"projekt": "x"}}, {"budget": None}, {"head": 7}]
    )
    def test_a_definition_that_is_wrong_is_refused(
        self, make: Callable[..., GceSpotProvider], changes: dict[str, Any]
    ) -> None:
        with pytest.raises(SettingsError, match="ironcliw cluster validate"):
            make(**changes)


def test_rays_own_adapter_drives_it(
    provider: GceSpotProvider, settings: Settings, compute: FakeCompute
) -> None:
    config = AutoscalingConfig(render(settings), skip_content_hash=True)
    reader = SimpleNamespace(get_cached_autoscaling_config=lambda: config)
    adapter = NodeProviderAdapter(provider, reader)
    adapter.launch({SPOT_TYPE: 1}, "request-7")
    adapter._main_executor.shutdown()
    adapter._node_launcher_executors.shutdown()
    assert adapter.poll_errors() == []
    found = adapter.get_non_terminated()
    assert found.pop(HEAD_INSTANCE_ID).node_kind == NodeKind.HEAD
    (worker,) = found.values()
    assert (worker.node_type, worker.request_id) == (SPOT_TYPE, "request-7")
    assert worker.node_kind == NodeKind.WORKER
    instance = compute.world.named(worker.cloud_instance_id)
    assert instance is not None
    assert '"ray.io/node-group": "spot"' in instance.metadata["startup-script"]


def test_what_ray_warns_of_in_every_round_is_not_logged(
    provider: GceSpotProvider, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    definition = render(settings)
    AutoscalingConfig(definition, skip_content_hash=True)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []
    assert "head_node" not in definition and "worker_nodes" not in definition


def test_the_definition_names_this_class(settings: Settings, tmp_path: Path) -> None:
    assert render(settings)["provider"]["module"] == f"cluster.provider.{GceSpotProvider.__name__}"
