"""The smoke runs: what they refuse, what bounds them, and that they end what they began."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster.environment import Environment, MachineKind
from cluster.head.ray_environment import token_path
from cluster.head.record import ensure_token
from cluster.testing import smoke_gcp, smoke_mac
from cluster.testing.smoke import Smoke, refuse_what_is_wrong
from cluster.testing.smoke_gcp import CAP_USD, bounded_environment, load_bounded
from ironcliw.errors import ClusterError
from ironcliw.settings import load_settings
from tests.unit.cluster.doctor_machine import settings_of

WELL = {"name": "vpn", "state": "ok", "found": "up", "next_step": ""}
WRONG = {
    "name": "credentials",
    "state": "error",
    "found": "none (not found)",
    "next_step": "gcloud auth application-default login",
}
WARNED = {"name": "clock", "state": "warning", "found": "12 s ahead", "next_step": "set the clock"}


class Commands(Smoke):
    """A run whose commands answer what the test says."""

    def __init__(self, **answers: str | int) -> None:
        self.lines: list[str] = []
        super().__init__({}, self.lines.append)
        self.answers = answers
        self.ran: list[str] = []

    def attempt(self, *words: str, seconds: float) -> subprocess.CompletedProcess[str]:
        name = "job" if "submit" in words else words[1]
        self.ran.append(name)
        answer = self.answers.get(name, 0)
        if isinstance(answer, int):
            return subprocess.CompletedProcess(words, answer, "", "it broke" if answer else "")
        return subprocess.CompletedProcess(words, 0, answer, "")

    __slots__ = ("answers", "lines", "ran")


def doctor(*checks: dict[str, str]) -> str:
    return json.dumps({"checks": checks})


def whole(**changes: str | int) -> Commands:
    """Commands of a head on which all is well, but for some."""
    answers: dict[str, Any] = {
        "doctor": doctor(WELL, WARNED),
        "up": json.dumps({"seconds": 4.2}),
        "status": json.dumps({"nodes": [{"name": "mac", "alive": True}]}),
        "embed": "0.1 0.2\n384 numbers\n",
        "chat": "Blue.\n",
        "job": "squares 140 in 3 processes\nworker arm64\n",
        "down": json.dumps({"ended_processes": 17}),
    }
    return Commands(**{**answers, **changes})


class TestMac:
    def test_it_tells_what_it_saw(self, tmp_path: Path) -> None:
        run = whole()
        assert smoke_mac.smoke_mac(run, tmp_path) == 0
        told = "\n".join(run.lines)
        assert run.ran == ["doctor", "up", "status", "embed", "chat", "job", "down"]
        for text in ("clock: 12 s ahead", "ready in 4.2 s", "node mac", "squares 140", "17 proc"):
            assert text in told
        assert told.endswith("all well")

    @pytest.mark.parametrize("broken", ["up", "status", "embed", "chat", "job"])
    def test_whatever_fails_the_head_is_stopped(self, tmp_path: Path, broken: str) -> None:
        run = whole(**{broken: 3})
        assert smoke_mac.smoke_mac(run, tmp_path) == 1
        assert run.ran[-2:] == [broken, "down"]
        step = {"chat": "generate"}.get(broken, broken)
        assert any(line.startswith(f"FAILED  {step} (") for line in run.lines)
        assert "ended with 3: it broke" in "\n".join(run.lines)
        assert run.lines[-1].endswith(f"not well: {step}")

    def test_a_wrong_answer_is_a_failure(self, tmp_path: Path) -> None:
        assert smoke_mac.smoke_mac(whole(job="squares 141 in 1 processes\n"), tmp_path) == 1

    def test_it_begins_nothing_on_a_sick_machine(self, tmp_path: Path) -> None:
        run = whole(doctor=doctor(WELL, WRONG))
        assert smoke_mac.smoke_mac(run, tmp_path) == 1
        assert run.ran == ["doctor"]
        assert "gcloud auth application-default login" in "\n".join(run.lines)

    def test_elsewhere_it_refuses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        linux = Environment(MachineKind.OTHER, "Linux", "x86_64", "", 2, 2**34)
        monkeypatch.setattr(smoke_mac, "detect", lambda probes: linux)
        monkeypatch.setattr(smoke_mac, "smoke_mac", lambda smoke, folder: 0)
        lines: list[str] = []
        assert smoke_mac.main([], lines.append) == 2
        assert lines == ["this is Linux; run it on a Mac, or try its steps with --any-system"]
        assert smoke_mac.main(["--any-system"], lines.append) == 0
        assert "proves nothing of macOS" in lines[1]

    def test_its_head_is_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in smoke_mac.own_environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        settings = load_settings()
        assert settings.state_dir == tmp_path / "state"
        assert settings.cloud.project is None
        assert len({settings.serve.port, settings.cluster.gcs_port, 8000, 6380}) == 4


class TestGcp:
    def test_without_a_project_it_says_how_to_get_one(self) -> None:
        lines: list[str] = []
        assert smoke_gcp.main([], lines.append) == 2
        assert "cloud.project is unset" in lines[0]
        assert "terraform apply" in lines[0]

    def test_without_credentials_nothing_is_started(self, tmp_path: Path) -> None:
        run = whole(doctor=doctor(WELL, WRONG, WARNED))
        settings = settings_of(tmp_path)
        assert smoke_gcp.smoke_gcp(run, settings) == 1
        assert run.ran == ["doctor"]
        told = "\n".join(run.lines)
        assert "credentials: none (not found)\n    gcloud auth application-default login" in told

    def test_the_settings_bound_what_it_costs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the real settings, read from the environment that the commands get."""
        settings = settings_of(tmp_path, cloud={"max_workers": 50, "max_run_hours": 100})
        changes = bounded_environment(settings, workers=1)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("IRONCLIW_CLOUD__PROJECT", "my-project")
        for name, value in changes.items():
            monkeypatch.setenv(name, value)
        real = load_settings()
        assert real.budget.day_usd == CAP_USD == 1.0
        assert (real.cloud.max_workers, real.cloud.max_run_hours) == (1, 0.5)
        assert real.cloud.cluster_name == "ironcliw-smoke"
        assert real.state_dir == tmp_path / "smoke-gcp"
        bounded = load_bounded(settings, changes)
        for section, names in (
            ("cloud", ("cluster_name", "max_workers", "max_run_hours")),
            ("budget", ("day_usd",)),
        ):
            for name in names:
                mine, theirs = getattr(bounded, section), getattr(real, section)
                assert getattr(mine, name) == getattr(theirs, name)
        assert bounded.state_dir == real.state_dir

    def test_a_cap_of_the_user_that_is_lower_stays(self, tmp_path: Path) -> None:
        settings = settings_of(tmp_path, budget={"day_usd": 0.4})
        assert bounded_environment(settings, workers=1)["IRONCLIW_BUDGET__DAY_USD"] == "0.4"

    def run_with_secret(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
    ) -> tuple[int, list[str], list[Smoke]]:
        """`make smoke-gcp` of somebody who followed cluster/deploy/README.md."""
        home = tmp_path / "home"
        home.mkdir()
        (home / "ironcliw.toml").write_text(
            '[cloud]\nproject = "my-project"\ntoken_secret = "ironcliw-ray-token"\n'
        )
        if token is not None:
            (home / "token").write_text(token)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("IRONCLIW_STATE_DIR", str(home))
        begun: list[Smoke] = []

        def begin(run: Smoke, *_: object, **__: object) -> int:
            begun.append(run)
            return 0

        monkeypatch.setattr(smoke_gcp, "smoke_gcp", begin)
        lines: list[str] = []
        return smoke_gcp.main([], lines.append), lines, begun

    def test_its_head_has_the_token_that_the_workers_fetch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        code, lines, begun = self.run_with_secret(tmp_path, monkeypatch, "the-token")
        assert (code, lines) == (0, [])
        # what `up` of the run will see
        for name, value in begun[0].changes.items():
            monkeypatch.setenv(name, value)
        settings = load_settings()
        assert settings.cloud.token_secret == "ironcliw-ray-token"
        assert settings.state_dir == tmp_path / "home" / "smoke-gcp"
        path = token_path(settings)
        ensure_token(path)
        assert path.read_text() == "the-token"
        assert path.stat().st_mode & 0o777 == 0o600

    def test_without_a_token_it_says_how_to_make_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        code, lines, begun = self.run_with_secret(tmp_path, monkeypatch, None)
        assert (code, begun) == (2, [])
        assert "not begun: cloud.token_secret is 'ironcliw-ray-token'" in lines[0]
        assert "gcloud secrets versions add ironcliw-ray-token --data-file=" in lines[0]

    def test_gcloud_that_is_absent_or_refuses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vm: Any = type("Vm", (), {"name": "vm-1", "zone": "us-central1-a"})
        cloud = settings_of(tmp_path).cloud
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ClusterError, match="install it, or leave out PREEMPT=1"):
            smoke_gcp.maintenance_event(cloud, vm)
        program = tmp_path / "gcloud"
        program.write_text('#!/bin/sh\necho "no permission: $*" >&2\nexit 1\n', encoding="ascii")
        program.chmod(0o755)
        with pytest.raises(ClusterError, match=r"event vm-1 --zone=us-central1-a --project=my-pro"):
            smoke_gcp.maintenance_event(cloud, vm)


def test_a_doctor_that_says_nothing_is_told() -> None:
    with pytest.raises(ClusterError, match="said nothing: it broke"):
        refuse_what_is_wrong(Commands(doctor=2))


def test_a_command_that_hangs_ends() -> None:
    smoke = Smoke({}, lambda line: None)
    with pytest.raises(ClusterError, match=r"sleep took longer than 0\.05 s"):
        smoke.run("sleep", "5", seconds=0.05)
