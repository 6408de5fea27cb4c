"""Ray's session folder: who may enter it, and which sessions are removed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.head import temp_folder
from cluster.head.lifecycle import _MAX_TEMP_DIR
from ironcliw.errors import SettingsError
from ironcliw.settings import Settings

HOUR = 3600.0


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


class TestPrivate:
    def test_a_new_folder_is_the_owners_alone(self, tmp_path: Path) -> None:
        temp_folder.make_private(tmp_path / "new")
        assert mode(tmp_path / "new") == 0o700

    def test_an_open_one_is_closed(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o777)
        temp_folder.make_private(tmp_path)
        assert mode(tmp_path) == 0o700

    def test_a_link_is_refused(self, tmp_path: Path) -> None:
        target = tmp_path / "target"
        target.mkdir(mode=0o755)
        (tmp_path / "link").symlink_to(target)
        with pytest.raises(SettingsError, match=r"/link' is a link or a file.*TEMP_DIR=PATH"):
            temp_folder.make_private(tmp_path / "link")
        assert mode(target) == 0o755

    def test_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(SettingsError, match="/file' is a link or a file"):
            temp_folder.make_private(tmp_path / "file")

    def test_another_users_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        owner = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: owner + 1)
        with pytest.raises(SettingsError, match=rf"belongs to user {owner}, not to you"):
            temp_folder.make_private(tmp_path)

    def test_one_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"/a/b' cannot be created \(No such file"):
            temp_folder.make_private(tmp_path / "a" / "b")


class TestSessions:
    def session(self, folder: Path, name: str, age: float = HOUR) -> Path:
        path = folder / name
        (path / "logs").mkdir(parents=True)
        (path / "logs" / "raylet.out").write_text("x")
        os.utime(path, (time.time() - age,) * 2)
        return path

    def test_those_of_earlier_runs_are_removed(self, tmp_path: Path) -> None:
        old = self.session(tmp_path, "session_2020-01-01_00-00-00_000001_11")
        young = self.session(tmp_path, "session_2020-01-01_00-00-00_000002_12", age=1)
        live = self.session(tmp_path, "session_2020-01-01_00-00-00_000003_13")
        other = self.session(tmp_path, "kept")
        latest = tmp_path / "session_latest"
        latest.symlink_to(live)
        code = "print(flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", code, f"--log-dir={live}/logs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            temp_folder.remove_old_sessions(tmp_path, time.time())
            process.communicate(b"\n")
        assert not old.exists()
        assert all(path.is_dir() for path in (young, live, other, latest))
        temp_folder.remove_old_sessions(tmp_path, time.time())
        assert not live.exists()

    def test_a_folder_of_the_users_choice_is_only_created(self, tmp_path: Path) -> None:
        folder = tmp_path / "deep" / "ray"
        old = self.session(folder, "session_2020-01-01_00-00-00_000001_11")
        folder.chmod(0o755)
        settings = Settings(state_dir=tmp_path)
        for temp_dir in (folder, tmp_path / "new" / "ray"):
            cluster = settings.cluster.model_copy(update={"temp_dir": temp_dir})
            temp_folder.prepare_temp_folder(settings.model_copy(update={"cluster": cluster}))
        assert old.is_dir()
        assert mode(folder) == 0o755
        assert (tmp_path / "new" / "ray").is_dir()

    def test_the_usual_folder_has_a_private_parent(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ray = tmp_path / "ironcliw-1" / "ray"
        monkeypatch.setattr(Settings, "ray_temp_dir", ray)
        old = self.session(ray, "session_2020-01-01_00-00-00_000001_11")
        ray.parent.chmod(0o777)
        temp_folder.prepare_temp_folder(Settings(state_dir=tmp_path))
        assert mode(ray.parent) == 0o700
        assert not old.exists()

    def test_it_is_short_for_the_largest_user_id(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "getuid", lambda: 2**32 - 1)
        folder = str(Settings().ray_temp_dir)
        assert folder == "/tmp/ironcliw-4294967295/ray"
        assert len(folder) <= _MAX_TEMP_DIR
