"""How a head with workers is started, and that one without is started as before."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.head.ray_environment import client_environment, head_environment
from cluster.head.services import ray_start_command, restore
from ironcliw.settings import Settings


@pytest.fixture
def alone(tmp_path: Path) -> Settings:
    settings = Settings(state_dir=tmp_path / "state")
    cluster = settings.cluster.model_copy(update={"temp_dir": tmp_path / "ray"})
    return settings.model_copy(update={"cluster": cluster})


@pytest.fixture
def settings(alone: Settings) -> Settings:
    cloud = alone.cloud.model_copy(update={"project": "a-project", "join_seconds": 240.5})
    return alone.model_copy(update={"cloud": cloud})


def at(settings: Settings, address: str) -> Settings:
    cluster = settings.cluster.model_copy(update={"node_ip": address})
    return settings.model_copy(update={"cluster": cluster})


class TestWithoutAProject:
    def test_there_is_no_autoscaler_and_no_stored_state(self, alone: Settings) -> None:
        command = ray_start_command(alone)
        assert "--no-monitor" in command
        assert not any("autoscaling" in word for word in command)
        names = head_environment(alone, "tag").keys()
        assert not any("autoscaler" in name.lower() or "gcs_storage" in name for name in names)
        assert not alone.state_dir.exists()


class TestWithAProject:
    def test_ray_reads_the_definition_of_the_cluster(self, settings: Settings) -> None:
        command = ray_start_command(settings)
        assert "--no-monitor" not in command
        path = settings.state_dir / "ray_cluster.yaml"
        assert f"--autoscaling-config={path}" in command
        definition = yaml.safe_load(path.read_text())
        assert definition["provider"]["cloud"]["project"] == "a-project"

    def test_the_head_is_the_one_of_the_definition(self, settings: Settings) -> None:
        environment = head_environment(settings, "tag")
        ray_start_command(settings)
        definition = yaml.safe_load((settings.state_dir / "ray_cluster.yaml").read_text())
        assert environment["RAY_enable_autoscaler_v2"] == "1"
        assert environment["RAY_CLOUD_INSTANCE_ID"] == definition["provider"]["head"]["instance_id"]
        assert environment["RAY_NODE_TYPE_NAME"] == definition["head_node_type"]

    def test_a_machine_that_never_joins_is_given_up_after_the_controller_had_it(
        self, settings: Settings
    ) -> None:
        """It tells why; in whole seconds."""
        name = "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"
        assert head_environment(settings, "tag")[name] == "331"

    def test_the_control_service_keeps_its_state_on_disk(self, settings: Settings) -> None:
        environment = head_environment(settings, "tag")
        assert environment["RAY_gcs_storage"] == "rocksdb"
        assert Path(environment["RAY_gcs_storage_path"]).is_relative_to(settings.state_dir)

    @pytest.mark.parametrize("name", ["AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT"])
    def test_metrics_without_a_token_stay_on_this_machine(
        self, settings: Settings, name: str
    ) -> None:
        assert name not in head_environment(settings, "tag")
        assert head_environment(at(settings, "100.64.0.1"), "tag")[name] == "-1"

    def test_state_of_an_earlier_head_is_taken_on_and_said(self, settings: Settings) -> None:
        told: list[str] = []
        settings.ray_temp_dir.mkdir()
        address = settings.ray_temp_dir / "ray_current_cluster"
        address.write_text("127.0.0.1:6380")
        assert not restore(settings, told.append)
        assert told == []
        assert address.exists()
        assert restore(settings, told.append)
        assert "taking on the state of the earlier head" in told[0]
        assert not address.exists()


@pytest.mark.parametrize(("address", "flag"), [("127.0.0.1", "0"), ("100.64.0.1", "1")])
def test_a_driver_on_a_mac_needs_the_flag_that_the_head_has(
    alone: Settings, address: str, flag: str
) -> None:
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    here = at(alone, address)
    assert client_environment(here, "darwin")[name] == flag
    assert head_environment(here, "tag")[name] == flag
    assert name not in client_environment(here, "linux")
