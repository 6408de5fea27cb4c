"""What a run's configuration names is found by its workers, whose working directory is another."""

from __future__ import annotations

from pathlib import Path

import pytest

from ironcliw.settings import Settings
from train.config import make_config
from train.paths import whole_uri, with_whole_paths


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_and_uris(here: Path) -> None:
    assert whole_uri("runs/bot/") == f"{here}/runs/bot"
    assert whole_uri("../bot") == str(here.parent / "bot")
    assert whole_uri("~/bot") == str(Path.home() / "bot")
    assert whole_uri("gs://bucket/runs/bot/") == "gs://bucket/runs/bot"
    (here / "newest").symlink_to(here / "release-7")
    assert whole_uri("newest") == f"{here}/newest"


def test_everything_that_a_worker_reads(here: Path) -> None:
    (here / "merged").mkdir()
    given = {
        "model_name": "merged",
        "data": {"train": ["rows.jsonl"], "chat_template": "plain.jinja"},
        "preference": {"reference_cache": "references"},
    }
    found = with_whole_paths(make_config(given, "test"), Settings())
    assert found.model_name == f"{here}/merged"
    assert found.data.chat_template == f"{here}/plain.jinja"
    assert found.preference is not None
    assert found.preference.reference_cache == f"{here}/references"


def test_what_is_no_path_stays(here: Path) -> None:
    given = {
        "model_name": "all-MiniLM-L6-v2",
        "data": {"chat_template": "{{ messages }}"},
        "preference": {},
    }
    config = make_config(given, "test")
    assert with_whole_paths(config, Settings()) == config
    # which is then told by the name that was given
    unknown = make_config({"model_name": "gone"}, "test")
    assert with_whole_paths(unknown, Settings()) == unknown
    # a folder of that name does not hide a model of the catalogue
    (here / "all-MiniLM-L6-v2").mkdir()
    assert with_whole_paths(config, Settings()) == config
