"""The command `ironcliw doctor`, and the probes that look at a real machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.doctor import command as doctor_command
from cluster.doctor import probes as doctor_probes
from cluster.doctor.checklist import examine
from cluster.doctor.probes import (
    clock_offset,
    cluster_nodes,
    file_mode,
    find_program,
    free_bytes,
    google_credentials,
    network_interfaces,
    reaches_itself,
    real_probes,
    required_version,
)
from cluster.doctor.report import State
from cluster.vm.facts import installed_version
from ironcliw.cli import main
from ironcliw.settings import load_settings
from tests.unit.cluster.doctor_machine import healthy, settings_of


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *words])
    return int(caught.value.code or 0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without a cluster file; other heads are none of a test's business."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def free_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody holds a port, and the disk is empty: what else runs here must not matter."""
    monkeypatch.setattr(doctor_probes, "listener", lambda host, port: None)
    monkeypatch.setattr(doctor_probes, "free_bytes", lambda path: 10**12)


class TestCommand:
    def test_on_this_machine_without_a_project(
        self, free_machine: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run() == 0
        shown = capsys.readouterr().out
        assert "no workers, as cloud.project is unset" in shown
        assert shown.endswith("0 errors, 0 warnings\n")
        assert "What to do next" not in shown

    def test_without_a_project_the_cloud_is_not_asked(self, free_machine: None) -> None:
        checks = list(examine(load_settings(), real_probes(load_settings())))
        needed = [one.name for one in checks if one.state is not State.NOT_NEEDED]
        assert needed == ["machine", "versions", "ports", "disk", "token"]
        assert len({one.name for one in checks}) == len(checks) == 23

    @pytest.fixture
    def sick(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A cluster with a token that others can read, and a clock that is somewhat wrong."""
        settings = settings_of(tmp_path)
        probes = healthy(
            mode=lambda path: 0o644, clock_offset=lambda url: 20.0, installed={"ray": "2.60.0"}.get
        )
        monkeypatch.setattr(doctor_command, "command_settings", lambda: settings)
        monkeypatch.setattr(doctor_command, "real_probes", lambda settings: probes)

    def test_what_is_wrong_comes_with_its_step(
        self, sick: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run() == 1
        table, _, steps = capsys.readouterr().out.partition("What to do next:\n")
        assert "has mode 0644" in table
        assert steps.splitlines()[0].startswith("  1. token: chmod 600 ")
        assert steps.splitlines()[1].startswith("  2. clock: set the clock")
        assert steps.splitlines()[2] == "  3. google client: pip install 'ironcliw[gcp]'"
        assert steps.endswith("\n2 errors, 1 warnings\n")

    def test_json(self, sick: None, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--json") == 1
        report = json.loads(capsys.readouterr().out)
        assert (report["errors"], report["warnings"]) == (2, 1)
        token = next(one for one in report["checks"] if one["name"] == "token")
        assert (token["state"], token["next_step"][:9]) == ("error", "chmod 600")


class TestProbes:
    def test_versions(self) -> None:
        assert required_version("ray") == installed_version("ray")
        assert required_version("typer") is None
        assert installed_version("no-such-distribution") is None

    def test_programs(self) -> None:
        assert find_program("sh") is not None
        assert find_program("no-such-program-anywhere") is None

    def test_interfaces(self) -> None:
        found = network_interfaces()
        loopback = next(one for one in found.values() if "127.0.0.1" in one.addresses)
        assert loopback.is_up
        assert loopback.mtu >= 1280

    def test_an_own_address_can_be_reached_and_another_not(self) -> None:
        assert reaches_itself("127.0.0.1") is None
        # TEST-NET-3, which nobody has
        assert reaches_itself("203.0.113.1")

    def test_files(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        assert file_mode(path) is None
        path.touch()
        os.chmod(path, 0o640)
        assert file_mode(path) == 0o640
        assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(free_bytes(tmp_path), rel=0.1)

    def test_a_cluster_that_does_not_run_has_no_nodes(self, tmp_path: Path) -> None:
        assert (
            cluster_nodes(settings_of(tmp_path, client={"base_url": "http://127.0.0.1:1"})) is None
        )

    @pytest.fixture
    def late(self) -> Iterator[str]:
        """A server whose clock is an hour behind."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(404)
                self.send_header("content-length", "0")
                self.end_headers()

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string(time.time() - 3600)

            def log_message(self, *_: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
        server.server_close()

    def test_a_servers_clock(self, late: str, monkeypatch: pytest.MonkeyPatch) -> None:
        # a test bed on loopback is not behind the environment's proxy
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert clock_offset(late) == pytest.approx(3600, abs=5)
        assert clock_offset("http://127.0.0.1:1") is None
        assert clock_offset("no url") is None


class TestCredentials:
    """Google's own library decides; only its network is cut."""

    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """No credentials of the user, no gcloud, no metadata server."""
        for name in list(os.environ):
            if name.startswith(("GOOGLE_", "CLOUDSDK_", "GCLOUD_", "GCE_")):
                monkeypatch.delenv(name)
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        monkeypatch.setenv("HOME", str(tmp_path))

    def write(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
        path = folder / "adc.json"
        user = {"client_id": "a", "client_secret": "b", "refresh_token": "c"}
        path.write_text(json.dumps({"type": "authorized_user", **user, **changes}))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))

    def answer(self, monkeypatch: pytest.MonkeyPatch, status: int, body: dict[str, Any]) -> None:
        from google.auth.transport import requests as transport

        response = SimpleNamespace(status=status, headers={}, data=json.dumps(body).encode())
        monkeypatch.setattr(transport.Request, "__call__", lambda *_, **__: response)

    def test_none(self) -> None:
        found = google_credentials()
        assert found.problem == "none"
        assert "default credentials were not found" in found.detail

    def test_a_file_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/file.json")
        found = google_credentials()
        assert (found.problem, "/no/such/file.json" in found.detail) == ("none", True)

    def test_expired_ones(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write(tmp_path, monkeypatch)
        self.answer(monkeypatch, 400, {"error": "invalid_grant"})
        found = google_credentials()
        assert (found.problem, "invalid_grant" in found.detail) == ("expired", True)

    def test_good_ones(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from google.auth._cloud_sdk import CLOUD_SDK_CLIENT_ID

        # gcloud's own: Google's library warns of it, which is no news to whoever runs the doctor
        self.write(tmp_path, monkeypatch, client_id=CLOUD_SDK_CLIENT_ID)
        self.answer(monkeypatch, 200, {"access_token": "hush", "expires_in": 3600})
        found = google_credentials()
        assert (found.problem, "end user" in found.detail) == ("", True)
        assert "hush" not in repr(found)

    def test_no_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from google.auth import exceptions
        from google.auth.transport import requests as transport

        def cut(*_: object, **__: object) -> None:
            raise exceptions.TransportError("no route to host")  # type: ignore[no-untyped-call]

        self.write(tmp_path, monkeypatch)
        monkeypatch.setattr(transport.Request, "__call__", cut)
        found = google_credentials()
        assert (found.problem, found.detail) == ("offline", "no route to host")
