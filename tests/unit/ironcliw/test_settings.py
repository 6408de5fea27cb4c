"""Settings: where values come from, and what is said of wrong ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ironcliw.errors import SettingsError
from ironcliw.settings import (
    Settings,
    config_path,
    effective_settings,
    load_settings,
    load_settings_with_origins,
)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_defaults() -> None:
    settings, origins = load_settings_with_origins()
    assert (settings.serve.port, settings.base_url) == (8000, "http://127.0.0.1:8000")
    assert settings.store_url == f"sqlite:///{settings.state_dir / 'state.db'}"
    assert origins["serve.port"] == "default"
    assert origins["state_dir"] == "environment"


def test_each_layer_wins_over_the_one_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "ironcliw.toml", "[serve]\nport = 1\nthreads = 1\nmemory_bytes = 1\n")
    monkeypatch.setenv("IRONCLIW_SERVE__THREADS", "2")
    monkeypatch.setenv("IRONCLIW_SERVE__MEMORY_BYTES", "2")
    settings, origins = load_settings_with_origins(serve={"memory_bytes": 3})
    assert (settings.serve.port, settings.serve.threads, settings.serve.memory_bytes) == (1, 2, 3)
    assert origins["serve.port"] == f"file {path}"
    assert origins["serve.threads"] == "environment"
    assert origins["serve.memory_bytes"] == "argument"
    assert origins["serve.host"] == "default"


def test_lists_and_models_from_file_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "ironcliw.toml", '[models."my-7b"]\nsource = "dir:/m"\ntask = "generation"\n')
    monkeypatch.setenv("IRONCLIW_SERVE__PINNED_MODELS", '["a", "b"]')
    monkeypatch.setenv("IRONCLIW_CLUSTER__WORKER_PORTS", "[30000, 30100]")
    settings = load_settings()
    assert settings.serve.pinned_models == ("a", "b")
    assert settings.cluster.worker_ports == (30000, 30100)
    assert settings.models["my-7b"].source == "dir:/m"


def test_a_choice_of_numbers_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONCLIW_CLOUD__NOTICE_SECONDS", "30")
    assert load_settings().cloud.notice_seconds == 30
    monkeypatch.setenv("IRONCLIW_CLOUD__NOTICE_SECONDS", "31")
    with pytest.raises(SettingsError, match=r"cloud\.notice_seconds .*should be 0, 15, 30 or 120"):
        load_settings()


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, 900.0),
        ({"IMAGE_IS_BAKED": "false"}, 900.0),
        ({"IMAGE_IS_BAKED": "true"}, 300.0),
        ({"IMAGE_IS_BAKED": "true", "JOIN_SECONDS": "70"}, 70.0),
    ],
)
def test_a_worker_that_installs_has_more_time_to_join(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], seconds: float
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"IRONCLIW_CLOUD__{name}", value)
    settings, origins = load_settings_with_origins()
    assert settings.cloud.join_seconds == seconds
    assert effective_settings(settings)["cloud.join_seconds"] == seconds
    wanted = "environment" if "JOIN_SECONDS" in given else "default"
    assert origins["cloud.join_seconds"] == wanted


def test_where_the_file_is_looked_for(tmp_path: Path) -> None:
    state = {"IRONCLIW_STATE_DIR": str(tmp_path / "state")}
    assert config_path(state) is None
    in_state = write(tmp_path / "state" / "ironcliw.toml", "")
    assert config_path(state) == in_state
    here = write(tmp_path / "ironcliw.toml", "")
    assert config_path(state) == here
    named = write(tmp_path / "other.toml", "")
    assert config_path({**state, "IRONCLIW_CONFIG": str(named)}) == named


def test_a_named_file_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONCLIW_CONFIG", "/nowhere/x.toml")
    with pytest.raises(SettingsError, match=r"IRONCLIW_CONFIG names '/nowhere/x\.toml'"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[serv]\nport = 1\n",
            r"setting serv from file .*ironcliw\.toml: unknown key; did you mean 'serve'",
        ),
        (
            "[serve]\nprot = 1\n",
            r"setting serve\.prot from file .*: unknown key; did you mean 'port'",
        ),
        ("[models.x]\ntsk = 1\n", r"models\.x\.tsk from file .*: unknown key"),
        ('[cloud]\nzones = "a"\n', r"cloud\.zones from file .*: a list is expected"),
        ("[cloud]\nzones = []\n", r"a list of at least 1 is expected"),
        ("[cloud]\nnotice_seconds = 60\n", r"0, 15, 30 or 120 \(given: 60\)$"),
        ('[cloud]\nproject = "My Project"\n', r"a project's id is expected, not its name"),
        ("[cluster]\nworker_ports = [20999, 20000]\n", r"the first port must be .* in order"),
        ('[serve]\nport = "high"\n', r"setting serve\.port from file .*\(given: 'high'\)"),
        ("[serve]\nport = 70000\n", r"setting serve\.port from file .*less than or equal to 65535"),
        ("[serve]\nmemory_fraction = 2\n", r"serve\.memory_fraction"),
        ("serve = 3\n", r"setting serve from file"),
        ("[serve\n", r"ironcliw\.toml: not valid TOML"),
    ],
)
def test_a_wrong_file(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "ironcliw.toml", text)
    with pytest.raises(SettingsError, match=message):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("IRONCLIW_SERV__PORT", "1", r"IRONCLIW_SERV__PORT is no setting; write IRONCLIW_<SECTION"),
        (
            "IRONCLIW_SERVE__PROT",
            "1",
            r"setting serve\.prot from environment: unknown key",
        ),
        ("IRONCLIW_SERVE__PORT", "x", r"setting serve\.port from environment: .*\(given: 'x'\)"),
        ("IRONCLIW_SERVE__AUTH", "never", r"setting serve\.auth from environment"),
        ("IRONCLIW_SERVE__PINNED_MODELS", "a,b", r"environment"),
    ],
)
def test_a_wrong_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        load_settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[models.mine]\nsource = "dir:/m"\ntask = "magic"', "task is 'magic'; give one of"),
        ('[models.all-MiniLM-L6-v2]\nquantization = "8bit"', "is for embedding: only models for"),
        ('[models.mine]\ntask = "nli"', "mine is a new model and lacks source"),
    ],
)
def test_a_model_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "ironcliw.toml", text)
    with pytest.raises(SettingsError, match=message):
        load_settings()


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SettingsError, match=r"serve\.port from argument: .*; setting log\.level"):
        load_settings(serve={"port": 0}, log={"level": "LOUD"})


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONCLIW_CLIENT__API_KEY", "icw-hunter2")
    monkeypatch.setenv("IRONCLIW_STORE__URL", "postgresql://u:hunter2@h/db")
    settings = load_settings()
    assert settings.store_url == "postgresql://u:hunter2@h/db"
    shown = effective_settings(settings)
    assert "hunter2" not in repr(settings) + str(settings) + str(shown)
    assert re.fullmatch(r"\*+", shown["client.api_key"])


def test_a_wrong_secret_is_not_shown() -> None:
    for given in ({"api_key": ["hunter2"]}, "hunter2"):
        with pytest.raises(SettingsError, match=r"setting client.* from argument") as caught:
            load_settings(client=given)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "url", "loopback"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000", True),
        ("0.0.0.0", "http://127.0.0.1:8000", False),
        ("::1", "http://[::1]:8000", True),
        ("10.0.0.5", "http://10.0.0.5:8000", False),
    ],
)
def test_base_url(host: str, url: str, loopback: bool) -> None:
    settings = load_settings(serve={"host": host})
    assert (settings.base_url, settings.is_loopback) == (url, loopback)


def test_a_named_server_wins() -> None:
    assert load_settings(client={"base_url": "https://s/"}).base_url == "https://s"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().serve.port = 1


def test_every_setting_is_described() -> None:
    for name, section in Settings.model_fields.items():
        fields = getattr(section.annotation, "model_fields", {name: section})
        missing = [field for field, info in fields.items() if not info.description]
        assert missing == [] or name == "models", f"{name}: {missing}"
