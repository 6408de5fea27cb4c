"""The cluster's definition: what the settings render to, and what is said of a wrong one."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from cluster.config import (
    CLUSTER_FILE,
    HEAD_INSTANCE_ID,
    REQUIRED_KEYS,
    cloud_region,
    difference,
    is_rendered,
    render,
    to_yaml,
    worker_resources,
    write_cluster_file,
)
from cluster.config_check import read_cluster_file, validate
from ironcliw.cli import main
from ironcliw.errors import ClusterError, SettingsError
from ironcliw.setting_sections import BudgetSettings, CloudSettings
from ironcliw.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A cluster with a project and a price of its own."""
    return Settings(
        state_dir=tmp_path,
        cloud=CloudSettings(project="my-project", max_workers=3, idle_minutes=7.5),
        budget=BudgetSettings.model_validate({"prices": {"e2-highmem-4": {"spot": 0.07}}}),
    )


@pytest.fixture
def definition(settings: Settings) -> dict[str, Any]:
    return render(settings)


class TestRender:
    def test_the_committed_file_is_what_the_defaults_mean(self) -> None:
        assert difference(Settings(), ROOT / CLUSTER_FILE) is None

    def test_the_default_is_e2_highmem_4_spot_in_one_region_and_launches_nothing(self) -> None:
        found = read_cluster_file(ROOT / CLUSTER_FILE)
        spot = found["available_node_types"]["spot"]
        assert spot["resources"] == {"CPU": 4, "memory": 24_051_187_712, "spot": 1}
        assert spot["labels"] == {
            "ray.io/node-group": "spot",
            "ray.io/market-type": "spot",
            "ray.io/availability-region": "us-central1",
        }
        assert (found["max_workers"], spot["max_workers"]) == (0, 2)

    def test_a_project_lets_workers_come_and_go(self, definition: dict[str, Any]) -> None:
        spot = definition["available_node_types"]["spot"]
        assert (definition["max_workers"], spot["min_workers"], spot["max_workers"]) == (3, 0, 3)
        assert (definition["idle_timeout_minutes"], spot["idle_timeout_s"]) == (7.5, 450)

    def test_the_provider_gets_the_settings_back(
        self, settings: Settings, definition: dict[str, Any]
    ) -> None:
        provider = yaml.safe_load(to_yaml(definition))["provider"]
        assert CloudSettings(**provider["cloud"]) == settings.cloud
        assert BudgetSettings(**provider["budget"]) == settings.budget
        assert provider["head"] == {
            "instance_id": HEAD_INSTANCE_ID,
            "node_type": definition["head_node_type"],
            "address": "127.0.0.1",
            "port": 6380,
        }
        assert provider["module"] == "cluster.provider.GceSpotProvider"

    def test_no_secret_is_in_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("IRONCLIW_STORE__URL", "postgresql://me:hush@db/ironcliw")
        monkeypatch.setenv("IRONCLIW_CLIENT__API_KEY", "icw-hush")
        settings = load_settings()
        assert "hush" in settings.store_url
        assert "hush" not in to_yaml(render(settings))

    def test_a_regular_machine_is_labelled_so_and_asked_for_as_spot(self) -> None:
        spot = render(Settings(cloud=CloudSettings(market="regular")))["available_node_types"][
            "spot"
        ]
        assert spot["labels"]["ray.io/market-type"] == "on-demand"
        assert spot["resources"]["spot"] == 1

    @pytest.mark.parametrize("name", ["e2-standard-2", "n1-standard-1", "n2-highmem-8", "e2-micro"])
    def test_resources_are_integers_within_the_machine(self, name: str) -> None:
        resources = worker_resources(CloudSettings(machine_type=name))
        assert all(type(value) is int and value > 0 for value in resources.values())

    def test_an_unknown_machine_type_names_the_setting(self) -> None:
        with pytest.raises(SettingsError, match=r"cloud\.machine_type: .*e2-highmem-3"):
            render(Settings(cloud=CloudSettings(machine_type="e2-highmem-3")))

    @pytest.mark.parametrize(
        ("zones", "message"),
        [
            (("us-central1-a", "europe-west4-a"), r"cloud\.zones is .*zones of one region"),
            (("nowhere",), "holds 'nowhere', which is no zone"),
            (("us-central1",), "holds 'us-central1', which is no zone"),
            (("us-central1-a", "us-central1-a"), "holds 'us-central1-a' twice"),
        ],
    )
    def test_zones_that_cannot_be_are_refused(self, zones: tuple[str, ...], message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            cloud_region(CloudSettings(zones=zones))

    def test_zones_with_several_letters_are_zones(self) -> None:
        assert cloud_region(CloudSettings(zones=("us-central1-ai1a",))) == "us-central1"


class TestFile:
    def test_it_is_written_when_it_changes(self, settings: Settings, tmp_path: Path) -> None:
        path = tmp_path / CLUSTER_FILE
        assert difference(settings, path) == f"{path} does not exist"
        assert [write_cluster_file(settings, path) for _ in range(2)] == [True, False]
        assert read_cluster_file(path) == render(settings)
        assert [one.name for one in path.parent.iterdir()] == [CLUSTER_FILE]

    def test_a_difference_has_a_line(self, settings: Settings, tmp_path: Path) -> None:
        path = tmp_path / CLUSTER_FILE
        write_cluster_file(settings, path)
        text = path.read_text()
        path.write_text(text.replace("max_workers: 3", "max_workers: 9", 1))
        line = text.splitlines().index("max_workers: 3") + 1
        wanted = f"{path}:{line}: 'max_workers: 9'; the settings mean 'max_workers: 3'"
        assert difference(settings, path) == wanted
        path.write_text(text + "# more\n")
        assert str(difference(settings, path)).endswith("'# more'; the settings mean '(the end)'")

    @pytest.mark.parametrize("place", ["absent/x.yaml", "."])
    def test_where_none_can_be_written(
        self, settings: Settings, tmp_path: Path, place: str
    ) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        with pytest.raises(ClusterError, match=r"cannot be written: .*; name a file in a folder"):
            write_cluster_file(settings, folder / place)
        assert list(tmp_path.rglob("*")) == [folder]

    def test_a_file_of_another_hand_is_known(self, settings: Settings, tmp_path: Path) -> None:
        path = tmp_path / CLUSTER_FILE
        assert is_rendered(path)
        write_cluster_file(settings, path)
        assert is_rendered(path)
        path.write_text("mine: true\n")
        assert not is_rendered(path)

    def test_one_that_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"absent\.yaml cannot be read"):
            read_cluster_file(tmp_path / "absent.yaml")

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("max_workers: 3", "max_worker: 3", r"max_worker: unknown key; did you mean 'max_work"),
            ("    resources:", "    resorces:", r"'resources' is a required property"),
            (
                "    zones:",
                "    zone:",
                r"provider\.cloud\.zone: unknown key; did you mean 'zones'",
            ),
            (
                "month_usd: 25.0",
                "month_usd: -1",
                r"budget\.month_usd: .*greater than 0 \(given: -1",
            ),
            ("max_run_hours: 4.0", "max_run_hours: x", r"cloud\.max_run_hours: .*number"),
            ("    port: 6380", "    port: '6380'", r"head\.port: is '6380'; int is expected"),
            ("    port: 6380", "    port: 99999", r"head\.port: is 99999; a port is 1 to 65535"),
            ("address: 127.0.0.1", "address: home", r"head\.address: is 'home'; an IP address"),
            ("GceSpotProvider", "GceSpotProvidr", r"provider\.module: .*did you mean 'cluster"),
            (
                "type: external",
                "type: gcp",
                r"provider\.type: is 'gcp'; our provider is",
            ),
            ("keep_warm: []", "keep_warm: [mon-fry 09-18]", r"cloud\.keep_warm holds 'mon-fry"),
            ("    - us-central1-a", "    - us-central1", r"'us-central1', which is no zone"),
            ("  head:\n    inst", "  haed:\n    inst", r"provider\.haed: unknown key; .*'head'"),
            (
                "node_type: head\n    addr",
                "node_type: spot\n    addr",
                r"must be head_node_type, 'h",
            ),
            ("CPU: 4", "CPU: 8", r"resources\.CPU: is 8; a e2-highmem-4 has 4"),
            ("CPU: 4", "CPU: 0.5", r"resources\.CPU: 0\.5 is of the wrong type; integer"),
            ("updaters: true", "updaters: false", r"disable_node_updaters: must be true"),
            ("machine_type: e2-", "machine_type: x9-", r"provider\.cloud: .*x9-highmem-4"),
            ("project: my-project", "project: null", r"max_workers: must be 0 without provider"),
            (
                "    min_workers: 0\n    max_workers: 3",
                "    min_workers: 3\n    max_workers: 2",
                r"min",
            ),
            ("  spot:\n", "  spot: [\n", r"no valid YAML"),
            ("head_node_type: head", "cluster_name: twice", r"'cluster_name' stands here a second"),
            ("head_node_type: head", "head_node_type: body", r"must be head_node_type, 'body'"),
        ],
    )
    def test_what_is_wrong_is_told_with_its_line(
        self, definition: dict[str, Any], tmp_path: Path, old: str, new: str, message: str
    ) -> None:
        text = to_yaml(definition)
        assert old in text
        path = tmp_path / CLUSTER_FILE
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(SettingsError, match=message) as error:
            read_cluster_file(path)
        assert error.value.message.startswith(f"{path}:")

    def test_the_line_is_that_of_the_mistake(
        self, definition: dict[str, Any], tmp_path: Path
    ) -> None:
        path = tmp_path / CLUSTER_FILE
        path.write_text(to_yaml(definition).replace("month_usd", "mont_usd", 1))
        line = next(
            number
            for number, text in enumerate(path.read_text().splitlines(), 1)
            if "mont_usd" in text
        )
        with pytest.raises(SettingsError, match=rf":{line}: provider\.budget\.mont_usd: .*month_u"):
            read_cluster_file(path)


class TestValidate:
    def broken(self, definition: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> str:
        changed = copy.deepcopy(definition)
        change(changed)
        with pytest.raises(SettingsError, match=r"ray_cluster\.yaml") as error:
            validate(changed)
        return error.value.message

    def test_it_changes_nothing(self, definition: dict[str, Any]) -> None:
        before = copy.deepcopy(definition)
        validate(definition)
        assert definition == before

    @pytest.mark.parametrize("key", REQUIRED_KEYS)
    def test_each_key_that_ray_needs_is_missed(self, definition: dict[str, Any], key: str) -> None:
        message = self.broken(definition, lambda one: one.pop(key))
        assert f"the key '{key}' is missing" in message

    @pytest.mark.parametrize("value", [None, [], "text", 3])
    def test_something_else_is_no_definition(self, value: object) -> None:
        with pytest.raises(SettingsError, match="a mapping is expected; render one"):
            validate(value)

    def test_many_problems_are_counted(self, definition: dict[str, Any]) -> None:
        message = self.broken(definition, lambda one: one.update({f"key{n}": n for n in range(8)}))
        assert message.count("unknown key") == 5
        assert message.endswith("; and 3 more")

    @pytest.mark.parametrize("name", ["cloud", "budget", "head"])
    def test_a_section_that_is_none(self, definition: dict[str, Any], name: str) -> None:
        message = self.broken(definition, lambda one: one["provider"].update({name: "yes"}))
        assert f"provider.{name}: a mapping with" in message

    def test_more_workers_than_the_settings_allow(self, definition: dict[str, Any]) -> None:
        def change(one: dict[str, Any]) -> None:
            one["available_node_types"]["spot"]["max_workers"] = 4

        message = self.broken(definition, change)
        assert "spot.max_workers: is above provider.cloud.max_workers, 3" in message

    def test_rays_own_reader_has_the_last_word(self, definition: dict[str, Any]) -> None:
        def change(one: dict[str, Any]) -> None:
            one["max_workers"] = 1
            one["available_node_types"]["spot"]["min_workers"] = 2

        assert "Ray refuses it: The specified global" in self.broken(definition, change)

    def test_another_provider_is_its_authors_business(self, definition: dict[str, Any]) -> None:
        definition["provider"] = {"type": "external", "module": "their.Provider", "zone": "moon"}
        validate(definition)


def test_plain_ray_reads_the_committed_file() -> None:
    script = (
        "from ray.autoscaler.v2.instance_manager.config import FileConfigReader\n"
        f"config = FileConfigReader({CLUSTER_FILE!r}).get_cached_autoscaling_config()\n"
        "types = config.get_node_type_configs()\n"
        "print(config.get_head_node_type(), types['spot'].max_worker_nodes, "
        "config.get_max_num_worker_nodes(), types['spot'].idle_timeout_s, "
        "config.disable_node_updaters())"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.split() == ["head", "2", "0", "900.0", "True"], result.stderr


class TestCommand:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def run(self, *words: str) -> int:
        with pytest.raises(SystemExit) as caught:
            main(["cluster", *words])
        return int(caught.value.code or 0)

    def test_render_check_and_validate(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run("render", "--check") == 1
        assert "ray_cluster.yaml does not exist; run `ironcliw cluster" in capsys.readouterr().err
        assert [self.run("render"), self.run("render")] == [0, 0]
        assert capsys.readouterr().out.splitlines() == [
            "ray_cluster.yaml written",
            "ray_cluster.yaml was up to date",
        ]
        assert [self.run("render", "--check"), self.run("validate")] == [0, 0]
        assert "ray_cluster.yaml is valid" in capsys.readouterr().out

    def test_settings_that_cannot_work_write_nothing(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("IRONCLIW_CLOUD__MACHINE_TYPE", "e2-highmem-3")
        assert self.run("render") == 4
        assert "setting cloud.machine_type" in capsys.readouterr().err
        assert not (folder / CLUSTER_FILE).exists()

    def test_a_typo_is_told(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run("render") == 0
        path = folder / CLUSTER_FILE
        path.write_text(path.read_text().replace("upscaling_speed", "upscaling_sped"))
        assert self.run("validate") == 4
        assert "did you mean 'upscaling_speed'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Home", "1st", "home-", "", "a" * 55, "home_2", "home\n"])
def test_a_cluster_name_that_no_machine_could_have_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"cloud\.cluster_name .*begin with a letter"):
        load_settings(cloud={"cluster_name": name})


def test_the_cluster_name_is_a_setting() -> None:
    definition = render(load_settings(cloud={"cluster_name": "office-2"}))
    assert definition["cluster_name"] == "office-2"
    validate(definition)
