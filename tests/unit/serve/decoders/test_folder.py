"""What a folder of a generating model says about itself, and folders that say it badly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ironcliw.errors import ModelLoadError
from serve.engines.decoders.folder import GenerationFolder

_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "max_position_embeddings": 2048,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def make(path: Path, config: Any = None, **files: Any) -> Path:
    """A folder with these JSON files; names without their ending."""
    save_file({"model.norm.weight": torch.ones(4)}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(_CONFIG if config is None else config))
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def test_a_bare_folder(tmp_path: Path) -> None:
    folder = GenerationFolder.read(make(tmp_path))
    assert (folder.model_type, folder.context, folder.seq2seq) == ("llama", 2048, False)
    assert (folder.start_token, folder.eos_tokens, folder.pad_token) == (None, (2,), 0)
    assert (dict(folder.defaults), folder.do_sample, folder.chat_template) == ({}, None, None)
    assert folder.special_tokens == {}
    assert folder.tokenizer_file == tmp_path / "tokenizer.json"
    assert folder.stored_bytes == 16


def test_generation_config_comes_before_config(tmp_path: Path) -> None:
    generation = {
        "eos_token_id": [7, 9],
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 20,
        "do_sample": False,
        "max_length": 30,
    }
    folder = GenerationFolder.read(make(tmp_path, generation_config=generation))
    assert folder.eos_tokens == (7, 9)
    assert folder.defaults == {"temperature": 0.6, "top_p": 0.9, "top_k": 20.0}
    assert folder.do_sample is False


def test_an_encoder_decoder_has_a_start_token_and_relative_positions(tmp_path: Path) -> None:
    config = {
        "model_type": "t5",
        "is_encoder_decoder": True,
        "relative_attention_num_buckets": 32,
        "decoder_start_token_id": 0,
    }
    folder = GenerationFolder.read(make(tmp_path, config))
    assert (folder.seq2seq, folder.start_token, folder.context) == (True, 0, 512)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("{{ messages }}", "{{ messages }}"),
        ([{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}], "d"),
        ([{"name": "tool", "template": "t"}], None),
    ],
)
def test_chat_template_of_the_tokenizer(tmp_path: Path, given: Any, expected: str | None) -> None:
    folder = GenerationFolder.read(make(tmp_path, tokenizer_config={"chat_template": given}))
    assert folder.chat_template == expected


def test_a_chat_template_file_comes_first(tmp_path: Path) -> None:
    make(tmp_path, tokenizer_config={"chat_template": "old"})
    (tmp_path / "chat_template.jinja").write_text("new")
    assert GenerationFolder.read(tmp_path).chat_template == "new"


def test_special_tokens_of_both_files(tmp_path: Path) -> None:
    make(
        tmp_path,
        special_tokens_map={"bos_token": "<old>", "pad_token": {"content": "<pad>"}},
        tokenizer_config={"bos_token": {"content": "<s>"}, "eos_token": "</s>", "sep_token": None},
    )
    folder = GenerationFolder.read(tmp_path)
    assert folder.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


@pytest.mark.parametrize(
    ("changes", "files", "rule"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "x.Y"}}, {}, "asks to run code"),
        ({"quantization_config": {"bits": 4}}, {}, "has a quantization_config"),
        ({"max_position_embeddings": 0}, {}, "max_position_embeddings is 0"),
        ({"max_position_embeddings": None}, {}, "does not say how many positions"),
        ({"eos_token_id": "</s>"}, {}, "eos_token_id is '</s>'"),
        ({"is_encoder_decoder": True}, {}, "has no decoder_start_token_id"),
        ({}, {"generation_config": {"top_p": "high"}}, "top_p is 'high'"),
        ({}, {"generation_config": {"do_sample": 1}}, "do_sample is 1"),
        ({}, {"generation_config": []}, "holds a list, not an object"),
        ({}, {"tokenizer_config": {"chat_template": 5}}, "chat_template is a int"),
    ],
)
def test_folders_that_contradict_themselves(
    tmp_path: Path, changes: Any, files: Any, rule: str
) -> None:
    with pytest.raises(ModelLoadError, match=rule):
        GenerationFolder.read(make(tmp_path, {**_CONFIG, **changes}, **files))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"only pickled weights \(pytorch_model.bin\)"):
        GenerationFolder.read(tmp_path)


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="is not a folder"):
        GenerationFolder.read(tmp_path / "nowhere")
    with pytest.raises(ModelLoadError, match=r"config\.json is absent"):
        GenerationFolder.read(tmp_path)
    make(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"model\.safetensors is absent"):
        GenerationFolder.read(tmp_path)


def test_shards_stay_inside_the_folder(tmp_path: Path) -> None:
    make(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    (tmp_path / "model.safetensors").rename(tmp_path / "part-1.safetensors")
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "part-1.safetensors"}}))
    assert list(GenerationFolder.read(tmp_path).tensors) == ["model.norm.weight"]
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../part-1.safetensors"}}))
    with pytest.raises(ModelLoadError, match="names files outside its folder"):
        GenerationFolder.read(tmp_path)
