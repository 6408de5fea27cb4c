"""Where `ironcliw status` asks, and what it says when nobody answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster import commands
from cluster.head.gcs_storage import GcsStorage
from cluster.status import fetch_status, write_status
from ironcliw.errors import NotRunningError, SettingsError
from ironcliw.setting_sections import CloudSettings
from ironcliw.settings import Settings


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A service that answers with the path asked; the environment names a proxy that is none."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"path": self.path}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def settings_for(tmp_path: Path, base_url: str) -> Settings:
    settings = Settings(state_dir=tmp_path)
    client = settings.client.model_copy(update={"base_url": base_url})
    return settings.model_copy(update={"client": client})


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_clients_url_is_understood_with_and_without_v1(
    tmp_path: Path, url: str, suffix: str
) -> None:
    settings = settings_for(tmp_path, url + suffix)
    assert fetch_status(settings) == {"path": "/v1/status"}
    assert settings.service_url == "http://127.0.0.1:8000"


def test_without_one_it_is_this_machines_service(tmp_path: Path, url: str) -> None:
    settings = Settings(state_dir=tmp_path)
    serve = settings.serve.model_copy(update={"port": int(url.rsplit(":", 1)[1])})
    assert fetch_status(settings.model_copy(update={"serve": serve}))["path"] == "/v1/status"


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match=r":1 does not answer .*; check client\.base_url"):
        fetch_status(settings_for(tmp_path, "http://127.0.0.1:1"))
    settings = Settings(state_dir=tmp_path)
    serve = settings.serve.model_copy(update={"port": 1})
    with pytest.raises(NotRunningError, match=r"session_latest/logs; `ironcliw up` starts it"):
        fetch_status(settings.model_copy(update={"serve": serve}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("127.0.0.1:8000", "must start with http:// or https://"), ("http://a:port", "is no URL")],
)
def test_what_is_no_url_is_refused(tmp_path: Path, wrong: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        fetch_status(settings_for(tmp_path, wrong))


def test_weights_and_cache_are_shown_apart(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"id": "m", "state": "ready", "pinned": False, "device": "cpu", "precision": "bfloat16"}
    row |= {"bytes": 806_000_000, "kv_bytes": 537_000_000, "uses": 1, "average_ms": None}
    other = {**row, "id": "n", "bytes": 91_000_000}
    del other["kv_bytes"]
    variant = {"name": "local", "resident_bytes": 897_000_000}
    report = {"degraded": [], "nodes": [], "variants": [variant], "queues": {}}
    write_status({**report, "models": [row, other]})
    shown = capsys.readouterr().out
    assert "269 MB + 537 MB KV" in shown
    assert "91 MB " in shown
    assert "models on local: 897 MB" in shown


def test_the_clouds_side_is_shown_with_its_state(capsys: pytest.CaptureFixture[str]) -> None:
    asleep = {"name": "spot", "state": "asleep", "reason": None}
    awake = {"name": "spot", "state": "awake", "budget_bytes": 2_000_000_000, "node": "vm-1"}
    report = {"degraded": [], "nodes": [], "queues": {}, "models": []}
    write_status({**report, "variants": [asleep]})
    shown = capsys.readouterr().out
    assert "spot is asleep" in shown
    assert "models on spot" not in shown
    write_status({**report, "variants": [awake]})
    shown = capsys.readouterr().out
    assert "spot is awake" in shown
    assert "models on spot: 0 MB of 2,000 MB" in shown


def test_workflows_and_agents_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    actors = {
        "state": "leading",
        "workflows": {"running": 3, "uncertain": 1},
        "steps": {"running": 2, "queued": 0},
        "agents": {},
        "messages": {"waiting": 4, "durable": 1, "dead_letters": None},
        "open_circuits": ["translate"],
    }
    report = {"degraded": [], "nodes": [], "variants": [], "queues": {}, "models": []}
    write_status({**report, "actors": actors})
    assert (
        "workflows: 3 running, 1 uncertain; steps: 2 running, 0 queued\n"
        "agents: none; messages: 4 waiting, 1 durable, 0 dead letters\n"
        "not asked for a while: translate\n"
    ) in capsys.readouterr().out
    actors["messages"] = {"waiting": 0, "durable": 0, "dead_letters": 1}
    write_status({**report, "actors": actors})
    assert "0 durable, 1 dead letter\n" in capsys.readouterr().out
    write_status({**report, "actors": {"state": "away"}})
    assert "workflows" not in capsys.readouterr().out, "what is degraded says so"


@pytest.mark.parametrize("project", ["second", None])
def test_the_cloud_is_that_of_the_running_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: str | None
) -> None:
    """Its machines are where it was started, whatever project the settings name by now."""
    asked: list[Settings] = []
    monkeypatch.setattr("cluster.control.status.cloud_status", asked.append)
    first = Settings(state_dir=tmp_path, cloud=CloudSettings(project="first"))
    GcsStorage(first).prepare(lambda text: None)
    commands._cloud_status(Settings(state_dir=tmp_path, cloud=CloudSettings(project=project)))
    assert [one.cloud.project for one in asked] == ["first"]
