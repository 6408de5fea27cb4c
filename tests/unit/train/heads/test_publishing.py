"""Heads that were saved into the register, and what stands in the way before anything is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ironcliw.adapters import versions
from ironcliw.cli import main
from ironcliw.errors import SettingsError, TrainingError
from ironcliw.file_digests import weights_digest
from ironcliw.head_record import BIAS, WEIGHT, WEIGHTS_FILE, HeadRecord
from ironcliw.settings import Settings
from tests.unit.train.embedding.encoders import make_encoder
from train.heads.publishing import publish_head


def saved(folder: Path, weights: Path, accuracy: float = 0.9, **changes: Any) -> Path:
    folder.mkdir()
    metrics = {"accuracy": accuracy, "ece": 0.02, "accuracy_of_names": 0.5}
    given = {"metrics": metrics, "base": "tiny", "base_digest": weights_digest(weights), **changes}
    HeadRecord(("a", "b"), 32, 0.5, **given).write(folder)
    tensors = {WEIGHT: np.zeros((2, 32), np.float32), BIAS: np.zeros(2, np.float32)}
    save_file(tensors, folder / WEIGHTS_FILE)
    return folder


def settings_of(tmp_path: Path, base: Path) -> Settings:
    models = {"tiny": {"source": f"dir:{base}", "task": "embedding"}}
    return Settings.model_validate({"state_dir": tmp_path / "state", "models": models})


def test_a_saved_head_is_published_once(tmp_path: Path) -> None:
    base = make_encoder(tmp_path / "base")
    settings = settings_of(tmp_path, base)
    folder = saved(tmp_path / "head", base)
    done = publish_head(folder, "kinds", settings)
    assert (done.model_id, done.kind, done.rank, done.forced) == ("tiny:kinds", "head", 2, False)
    assert done.metrics["after"]["accuracy"] == 0.9
    assert publish_head(folder, "kinds", settings) == done
    assert len(versions(settings.state_dir, "kinds")) == 1


def test_a_worse_head_is_published_by_force_alone(tmp_path: Path) -> None:
    base = make_encoder(tmp_path / "base")
    settings = settings_of(tmp_path, base)
    folder = saved(tmp_path / "head", base, accuracy=0.1)
    words = r"right for 10.0% of the texts, .*`ironcliw train publish .*head kinds --force` publ"
    with pytest.raises(TrainingError, match=words) as told:
        publish_head(folder, "kinds", settings)
    assert told.value.code == "gate_failed"
    assert publish_head(folder, "kinds", settings, force=True).forced


def test_heads_that_belong_to_something_else(tmp_path: Path) -> None:
    base = make_encoder(tmp_path / "base")
    settings = settings_of(tmp_path, base)
    with pytest.raises(
        TrainingError, match=r"'tiny' has the digest .*, and the head was fitted to"
    ):
        publish_head(saved(tmp_path / "a", base, base_digest="0" * 64), "kinds", settings)
    with pytest.raises(SettingsError, match="an older release fitted it; fit it again"):
        publish_head(saved(tmp_path / "b", base, base=None), "kinds", settings)
    with pytest.raises(SettingsError, match=r"model is '/some/path'; add it to ironcliw.toml"):
        publish_head(saved(tmp_path / "c", base, base="/some/path"), "kinds", settings)


def run(*words: str, code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", *words])
    assert (ended.value.code or 0) == code


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = make_encoder(tmp_path / "base")
    text = f'[models.tiny]\nsource = "dir:{base}"\ntask = "embedding"\n'
    (tmp_path / "ironcliw.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONCLIW_STATE_DIR", str(tmp_path / "state"))
    return base


def test_the_command_publishes_a_folder(
    at_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(saved(tmp_path / "head", at_home, accuracy=0.1))
    run("publish", folder, "kinds", code=1)
    run("publish", folder, "kinds", "--force", "--json", code=0)
    assert json.loads(capsys.readouterr().out)["model_id"] == "tiny:kinds"
    run("publish", folder, "--hub", "me/kinds", code=4)
    assert "holds a head, which is of use here alone" in capsys.readouterr().err


def test_what_cannot_be_published_is_told_before_anything_is_asked(
    at_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # no data are there: they are not looked for
    words = ["head", "--data", "none.jsonl", "--to", "head", "--model", str(at_home)]
    run(*words, "--publish", "kinds", code=4)
    assert "a head is published for a model of the catalogue" in capsys.readouterr().err
    run("head", "--data", "none.jsonl", "--to", "head", "--publish", "a/b", code=4)
    assert "is no name for an adapter" in capsys.readouterr().err
    (tmp_path / "file").touch()
    run("head", "--data", "none.jsonl", "--to", "file", code=4)
    assert "--to is file, which is a file; name a new folder" in capsys.readouterr().err
    saved(tmp_path / "head", at_home)
    run("head", "--data", "none.jsonl", "--to", "head", code=4)
    assert "it holds a head, which `ironcliw train publish" in capsys.readouterr().err
