"""The folder with the state of the control service: whose it is, and when it is forgotten."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import SecretStr

from cluster.head import gcs_storage
from cluster.head.gcs_storage import CloudOrigin, GcsStorage, Origin, of_record
from ironcliw.errors import ClusterError
from ironcliw.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state")


def changed(settings: Settings, section: str, **values: object) -> Settings:
    part = getattr(settings, section).model_copy(update=values)
    return settings.model_copy(update={section: part})


class TestPrepare:
    def test_the_first_start_finds_nothing_and_the_second_does(self, settings: Settings) -> None:
        told: list[str] = []
        storage = GcsStorage(settings)
        assert not storage.exists()
        assert not storage.prepare(told.append)
        (storage.folder / "rocksdb").mkdir()
        assert storage.exists()
        assert GcsStorage(settings).prepare(told.append)
        assert (storage.folder / "rocksdb").exists()
        assert told == []

    @pytest.mark.parametrize(
        ("change", "difference"),
        [
            ({"gcs_port": 7000}, "address 127.0.0.1:7000 instead of 127.0.0.1:6380"),
            ({"node_ip": "10.0.0.9"}, "address 10.0.0.9:6380 instead of 127.0.0.1:6380"),
        ],
    )
    def test_state_of_another_address_is_removed(
        self, settings: Settings, change: dict[str, object], difference: str
    ) -> None:
        told: list[str] = []
        GcsStorage(settings).prepare(told.append)
        (settings.state_dir / "gcs" / "rocksdb").mkdir()
        moved = changed(settings, "cluster", **change)
        assert not GcsStorage(moved).prepare(told.append)
        assert not (settings.state_dir / "gcs" / "rocksdb").exists()
        assert difference in told[0]
        assert "workers power off by themselves" in told[0]
        assert GcsStorage(moved).prepare(told.append)

    def test_state_of_another_ray_is_removed(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[str] = []
        GcsStorage(settings).prepare(told.append)
        monkeypatch.setattr(gcs_storage, "version", lambda name: "2.99.0")
        assert not GcsStorage(settings).prepare(told.append)
        assert "ray 2.99.0 instead of" in told[0]

    def test_a_newer_form_is_refused(self, settings: Settings) -> None:
        storage = GcsStorage(settings)
        storage.prepare(lambda text: None)
        path = storage.folder / "origin.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 2}))
        with pytest.raises(ClusterError, match="has format 2, this release reads up to 1"):
            storage.prepare(lambda text: None)

    @pytest.mark.parametrize("text", ["{", "{}", "[]"])
    def test_a_damaged_file_is_named(self, settings: Settings, text: str) -> None:
        storage = GcsStorage(settings)
        storage.prepare(lambda text: None)
        (storage.folder / "origin.json").write_text(text)
        with pytest.raises(ClusterError, match=r"origin\.json is damaged .*`ironcliw down`"):
            storage.prepare(lambda text: None)

    def test_only_its_owner_can_read_it(self, settings: Settings) -> None:
        storage = GcsStorage(settings)
        storage.prepare(lambda text: None)
        assert storage.folder.stat().st_mode & 0o777 == 0o700


class TestApplication:
    def test_it_is_known_until_a_setting_changes(self, settings: Settings) -> None:
        storage = GcsStorage(settings)
        storage.prepare(lambda text: None)
        assert not storage.holds_application()
        storage.note_application()
        assert GcsStorage(settings).holds_application()
        assert not GcsStorage(changed(settings, "serve", port=9)).holds_application()

    def test_a_changed_secret_is_noticed(self, settings: Settings) -> None:
        first = changed(settings, "store", url=SecretStr("postgresql://a"))
        GcsStorage(first).prepare(lambda text: None)
        GcsStorage(first).note_application()
        second = changed(settings, "store", url=SecretStr("postgresql://b"))
        assert GcsStorage(first).holds_application()
        assert not GcsStorage(second).holds_application()

    def test_another_process_comes_to_the_same(self, settings: Settings) -> None:
        GcsStorage(settings).prepare(lambda text: None)
        GcsStorage(settings).note_application()
        code = (
            "from pathlib import Path; from ironcliw.settings import Settings\n"
            "from cluster.head.gcs_storage import GcsStorage\n"
            f"print(GcsStorage(Settings(state_dir=Path({str(settings.state_dir)!r})))"
            ".holds_application())"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.strip() == "True", done.stderr

    def test_it_is_forgotten_with_the_rest(self, settings: Settings) -> None:
        storage = GcsStorage(settings)
        storage.prepare(lambda text: None)
        storage.note_application()
        storage.clear()
        assert not storage.exists()
        storage.prepare(lambda text: None)
        assert not storage.holds_application()


def test_differences_are_words() -> None:
    one = Origin("a:1", "2.60.0", "3.11.7")
    assert one.differences(one) == ""
    other = Origin("a:1", "2.61.0", "3.11.8")
    assert one.differences(other) == "ray 2.60.0 instead of 2.61.0, python 3.11.7 instead of 3.11.8"


class TestCloud:
    """Where the machines are is kept, since the settings can change before they have ended."""

    CLOUD: ClassVar[dict[str, object]] = {
        "project": "first",
        "cluster_name": "home",
        "zones": ("us-east1-b",),
    }

    def test_it_is_that_of_the_start_and_not_of_now(self, settings: Settings) -> None:
        first = changed(settings, "cloud", **self.CLOUD)
        GcsStorage(first).prepare(lambda text: None)
        now = changed(settings, "cloud", project="second", cluster_name="office", idle_minutes=3.0)
        assert GcsStorage(now).cloud() == CloudOrigin("first", "home", ("us-east1-b",), None)
        found = of_record(now).cloud
        assert found == now.cloud.model_copy(update=self.CLOUD)
        assert found.idle_minutes == 3.0
        assert of_record(settings).cloud.project == "first"

    def test_without_a_record_the_settings_do(self, settings: Settings) -> None:
        assert of_record(settings) is settings
        (settings.state_dir / "gcs").mkdir(parents=True)
        (settings.state_dir / "gcs" / "origin.json").write_text("{")
        assert of_record(settings) is settings

    @pytest.mark.parametrize("change", [{"project": "second"}, {"cluster_name": "office"}])
    def test_state_of_another_place_is_removed(
        self, settings: Settings, change: dict[str, object]
    ) -> None:
        told: list[str] = []
        first = changed(settings, "cloud", **self.CLOUD)
        GcsStorage(first).prepare(told.append)
        second = changed(first, "cloud", **change)
        assert not GcsStorage(second).prepare(told.append)
        assert "instead of project first, cluster home" in told[0]
        assert of_record(settings).cloud.project == second.cloud.project

    def test_other_zones_keep_the_state_and_are_kept(self, settings: Settings) -> None:
        first = changed(settings, "cloud", **self.CLOUD)
        GcsStorage(first).prepare(lambda text: None)
        assert GcsStorage(changed(first, "cloud", zones=("us-east1-c",))).prepare(lambda text: None)
        assert of_record(settings).cloud.zones == ("us-east1-c",)

    def test_a_record_of_an_older_release_still_loads(self, settings: Settings) -> None:
        first = changed(settings, "cloud", **self.CLOUD)
        storage = GcsStorage(first)
        storage.prepare(lambda text: None)
        path = storage.folder / "origin.json"
        old = json.loads(path.read_text())
        del old["cloud"]
        path.write_text(json.dumps(old))
        assert storage.cloud() is None
        assert of_record(first) is first
        assert storage.prepare(lambda text: None)
        assert of_record(settings).cloud.project == "first"
