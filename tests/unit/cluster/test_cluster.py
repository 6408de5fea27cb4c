"""Processes, records and checks around the head; the head itself is in tests/integration."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import examples
from cluster.head import lifecycle as head
from cluster.head import services as head_processes
from cluster.head.ports import check_ports
from cluster.head.processes import end_processes, listener, session_tags, tagged_processes
from cluster.head.ray_environment import client_environment, dashboard_url, head_environment
from cluster.head.record import HeadRecord, ensure_token, record_path
from cluster.names import load_by_name
from ironcliw.errors import ClusterError, PortInUseError, SettingsError
from ironcliw.settings import Settings, process_environment

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state")


class TestProcesses:
    def start(self, tag: str, code: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "IRONCLIW_SESSION": tag}
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
        )

    def test_a_whole_session_is_ended_and_no_other(self) -> None:
        parent = self.start(
            "test-a",
            "import subprocess, sys, time\n"
            # a child that has lost its tag, as Ray's processes that set their title
            "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], env={})\n"
            "print('ready', flush=True); time.sleep(60)",
        )
        other = self.start("test-b", "print('ready', flush=True); import time; time.sleep(60)")
        for process in (parent, other):
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        try:
            assert len(tagged_processes("test-a")) == 2
            assert {"test-a", "test-b"} <= session_tags()
            assert end_processes("test-a") == 2
            assert tagged_processes("test-a") == []
            assert other.poll() is None
        finally:
            end_processes("test-b")
            for process in (parent, other):
                process.communicate()

    def test_one_that_ignores_sigterm_is_killed(self) -> None:
        stubborn = self.start(
            "test-c",
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "print('ready', flush=True); time.sleep(60)",
        )
        assert stubborn.stdout is not None
        assert stubborn.stdout.readline() == b"ready\n"
        started = time.monotonic()
        assert end_processes("test-c", grace_seconds=0.2) == 1
        assert time.monotonic() - started < 60
        stubborn.communicate()

    def test_a_listener_is_described(self) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            assert f"(pid {os.getpid()})" in str(listener("127.0.0.1", port))
        assert listener("127.0.0.1", port) is None

    def test_where_nobody_can_listen_nobody_does(self) -> None:
        with pytest.raises(OSError, match="assign requested address"):
            listener("192.0.2.1", 6380)


class TestRecord:
    def test_it_reads_what_it_wrote(self, tmp_path: Path) -> None:
        record = HeadRecord("tag", "http://a", "http://b", 1.5)
        path = record_path(tmp_path / "new")
        record.write(path)
        assert HeadRecord.read(path) == record
        assert path.stat().st_mode & 0o777 == 0o600

    def test_no_file_is_no_head(self, tmp_path: Path) -> None:
        assert HeadRecord.read(tmp_path / "head.json") is None

    def test_a_newer_format_is_refused(self, tmp_path: Path) -> None:
        record = dataclasses.asdict(HeadRecord("tag", "http://a", "http://b", 1.5))
        path = tmp_path / "head.json"
        path.write_text(json.dumps({**record, "format_version": 2}))
        with pytest.raises(ClusterError, match="has format 2, this release reads up to 1"):
            HeadRecord.read(path)

    @pytest.mark.parametrize("text", ["{", "{}", '{"format_version": 1}', "[]"])
    def test_a_damaged_file_is_named(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "head.json"
        path.write_text(text)
        with pytest.raises(ClusterError, match=r"head\.json is damaged .*`ironcliw down --all`"):
            HeadRecord.read(path)

    def test_the_token_is_made_once_and_private(self, tmp_path: Path) -> None:
        path = tmp_path / "state" / "token"
        ensure_token(path)
        token = path.read_text()
        ensure_token(path)
        assert path.read_text() == token
        assert len(token) == 64
        assert path.stat().st_mode & 0o777 == 0o600


class TestChecks:
    def test_a_long_ray_folder_is_refused(self, settings: Settings, tmp_path: Path) -> None:
        cluster = settings.cluster.model_copy(update={"temp_dir": tmp_path / ("x" * 60)})
        with pytest.raises(SettingsError, match=r"cluster\.temp_dir is .*at most"):
            head.check_settings(settings.model_copy(update={"cluster": cluster}))

    @pytest.mark.parametrize("name", ["serve.port", "cluster.gcs_port", "cluster.dashboard_port"])
    def test_a_taken_port_names_setting_and_holder(self, settings: Settings, name: str) -> None:
        section, field = name.split(".")
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            changed = getattr(settings, section).model_copy(update={field: port})
            with pytest.raises(PortInUseError, match=rf"port {port} \({name}\) is taken by .*pid"):
                check_ports(settings.model_copy(update={section: changed}))

    @pytest.mark.parametrize("name", ["serve.host", "cluster.node_ip"])
    def test_an_address_that_is_not_here_is_no_taken_port(
        self, settings: Settings, name: str
    ) -> None:
        """As that of a VPN that is down; 192.0.2.1 is nobody's, by RFC 5737."""
        section, field = name.split(".")
        changed = getattr(settings, section).model_copy(update={field: "192.0.2.1"})
        told = rf"^no interface of this machine has {name}=192\.0\.2\.1; start the VPN or correct"
        with pytest.raises(SettingsError, match=told):
            check_ports(settings.model_copy(update={section: changed}))

    def test_a_stale_record_without_processes_is_removed(self, settings: Settings) -> None:
        path = record_path(settings.state_dir)
        HeadRecord("gone", "http://a", "http://b", 1.5).write(path)
        told: list[str] = []
        assert head.running_head(settings) is None
        head.clean_stale(settings, told.append)
        assert not path.exists()
        assert "earlier run that was not stopped (0 processes ended)" in told[0]

    def test_nothing_to_stop(self, settings: Settings) -> None:
        assert head.stop_head(settings) == 0

    def test_the_dashboard_is_local_whatever_the_nodes_address(self, settings: Settings) -> None:
        cluster = settings.cluster.model_copy(update={"node_ip": "10.0.0.5"})
        changed = settings.model_copy(update={"cluster": cluster})
        assert client_environment(changed)["RAY_ADDRESS"] == "http://127.0.0.1:8265"
        assert dashboard_url(changed) == "http://127.0.0.1:8265"
        assert "--dashboard-host=127.0.0.1" in head_processes.ray_start_command(changed)


def test_the_clients_environment_survives_a_shell(settings: Settings) -> None:
    state = settings.state_dir.with_name("with space")
    for name, value in client_environment(settings.model_copy(update={"state_dir": state})).items():
        line = f"export {name}={shlex.quote(value)}; printenv {name}"
        assert subprocess.check_output(["bash", "-c", line], text=True).strip() == value


def test_the_heads_environment_is_text_and_tagged(settings: Settings) -> None:
    environment = head_environment(settings, "tag")
    assert environment["IRONCLIW_SESSION"] == "tag"
    assert environment["RAY_AUTH_MODE"] == "token"
    assert all(isinstance(value, str) for value in environment.values())


def test_python_comes_first_on_a_childs_path() -> None:
    assert process_environment()["PATH"].startswith(str(Path(sys.executable).parent))


def test_names_are_loaded_or_explained() -> None:
    assert load_by_name("cluster.names:load_by_name") is load_by_name
    for name in ("cluster.names:nothing", "no.such.module:x", "plain"):
        with pytest.raises(SettingsError, match="cannot be loaded"):
            load_by_name(name)


class TestWelcome:
    """The examples are pasted into a real shell; `curl` and `ironcliw` only print what they get."""

    SHOW = (
        "curl() { printf '%s\\n' \"$@\"; }\n"
        'ironcliw() { printf \'key=%s\\n\' "$IRONCLIW_CLIENT__API_KEY" "$@"; }\n'
        "python() { printf '%s\\n' \"$2\"; }\n"
    )

    def text(self, settings: Settings, url: str = "http://127.0.0.1:8000") -> str:
        record = HeadRecord("tag", url, "http://127.0.0.1:8265", 0)
        return examples.welcome(settings, record, started=True, seconds=3.21)

    def paste(self, text: str) -> str:
        lines = text.split("Try it:")[1].split("For `ray")[0]
        return subprocess.check_output(["bash", "-ec", self.SHOW + lines], text=True)

    def test_it_says_where_everything_is(self, settings: Settings) -> None:
        text = self.text(settings)
        assert "ready in 3.2 s" in text
        assert 'eval "$(ironcliw env)"' in text
        assert f"Logs       {settings.state_dir}/logs " in text
        assert f" {settings.ray_temp_dir}/session_latest/logs " in text

    @pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://[::1]:8000"])
    def test_the_examples_can_be_pasted(
        self, settings: Settings, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "prefix", sys.base_prefix)
        shown = self.paste(self.text(settings, url)).splitlines()
        assert shown[:2] == ["-s", url + "/v1/embeddings"]
        body = shown[shown.index("-d") + 1]
        assert json.loads(body) == {"model": "all-MiniLM-L6-v2", "input": "turn off the lights"}
        source = "\n".join(shown[shown.index("from openai import OpenAI") :])
        compile(source, "example", "exec")
        assert f'base_url="{url}/v1", api_key="none"' in source

    @pytest.mark.parametrize("serve", [{"auth": "required"}, {"host": "0.0.0.0"}])
    def test_they_show_where_a_key_goes(
        self, settings: Settings, serve: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "prefix", sys.base_prefix)
        changed = settings.serve.model_copy(update=serve)
        shown = self.paste(self.text(settings.model_copy(update={"serve": changed})))
        assert "authorization: Bearer icw-...\n" in shown
        assert "key=icw-...\n" in shown
        assert 'api_key="icw-..."' in shown

    def test_a_virtual_environment_is_activated_unless_it_is(
        self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        programs = tmp_path / "my venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "activate").write_text("echo activated\n")
        monkeypatch.setattr(sys, "prefix", str(programs.parent))
        assert self.paste(self.text(settings)).startswith("activated\n")
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        assert "source" not in self.text(settings)
