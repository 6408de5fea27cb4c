"""From names and paths to entries of the catalogue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ironcliw.errors import ModelLoadError, ModelNotFoundError
from ironcliw.settings import Settings
from serve.model_paths import with_model


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    models = {"mine": {"source": "fake:300", "task": "generation", "context": 9}}
    return Settings(state_dir=tmp_path, models=models)


def folder(tmp_path: Path, name: str = "my model", **config: Any) -> Path:
    path = tmp_path / name
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_an_id_keeps_its_entry(settings: Settings) -> None:
    changed, card = with_model(settings, "mine", "8bit")
    assert (card.source, card.context, card.quantization) == ("fake:300", 9, "8bit")
    assert changed.models["mine"].quantization == "8bit"
    assert with_model(settings, "SmolLM2-135M-Instruct", None)[1].quantization is None
    assert settings.models["mine"].quantization is None, "settings given are not changed"


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "generation"),
        ({"architectures": ["GPT2LMHeadModel"]}, "generation"),
        ({"model_type": "llama"}, "generation"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "seq2seq"),
        ({"architectures": ["LlavaForConditionalGeneration"], "vision_config": {}}, "vision"),
    ],
)
def test_a_folders_task(
    settings: Settings, tmp_path: Path, config: dict[str, Any], task: str
) -> None:
    path = folder(tmp_path, **config)
    changed, card = with_model(settings, str(path), "4bit")
    assert (card.id, card.task, card.source) == ("my-model", task, f"dir:{path}")
    assert card.quantization == "4bit"
    assert "mine" in changed.models


def test_a_gguf_file(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "tiny.Q4_1.gguf"
    path.write_bytes(b"")
    _, card = with_model(settings, path, None)
    assert (card.id, card.task, card.source) == ("tiny.Q4_1", "generation", f"dir:{path}")


def test_a_folder_named_as_a_known_model_is_another_one(settings: Settings, tmp_path: Path) -> None:
    path = folder(tmp_path, "t5-small", architectures=["LlamaForCausalLM"])
    _, card = with_model(settings, path, None)
    assert (card.id, card.licence) == ("local-t5-small", "unknown")


def test_a_path_relative_to_here(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(tmp_path)
    monkeypatch.chdir(path)
    _, card = with_model(settings, ".", None)
    assert (card.id, card.source) == ("my-model", f"dir:{path}")


def test_neither_a_name_nor_a_path(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no model 'nope'; known models: .*mine"):
        with_model(settings, "nope", None)
    for absent in (tmp_path / "absent", str(tmp_path / "absent.gguf"), "absent/model", "x.gguf"):
        with pytest.raises(ModelLoadError, match=r"absent|x\.gguf does not exist"):
            with_model(settings, absent, None)
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(ModelLoadError, match="is no folder and no GGUF file"):
        with_model(settings, tmp_path / "notes.txt", None)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"config\.json"),
        ("{", r"config\.json"),
        ('{"architectures": ["BertModel"]}', "is of BertModel, which generates no text"),
    ],
)
def test_a_folder_of_something_else(
    settings: Settings, tmp_path: Path, content: str | None, match: str
) -> None:
    path = tmp_path / "other"
    path.mkdir()
    if content is not None:
        (path / "config.json").write_text(content)
    with pytest.raises(ModelLoadError, match=match):
        with_model(settings, path, None)


def test_a_model_under_an_adapter_is_quantised_as_its_base(tmp_path: Path) -> None:
    adapters = {"it": {"base": "mine", "source": "dir:/a"}}
    models = {"mine": {"source": "fake:300", "task": "generation"}}
    settings = Settings(state_dir=tmp_path, models=models, adapters=adapters)
    changed, card = with_model(settings, "mine:it", "8bit")
    assert (card.id, card.quantization) == ("mine:it", "8bit")
    assert changed.models["mine"].quantization == "8bit"
