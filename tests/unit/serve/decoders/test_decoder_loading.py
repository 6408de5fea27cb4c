"""Folders that cannot be loaded say why; decoders refuse what they cannot compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ironcliw.errors import (
    ContextLengthError,
    ModelLoadError,
    OverloadedError,
    RequestError,
    SettingsError,
    UnavailableError,
)
from serve.engines.decoders.folder import GenerationFolder
from serve.engines.decoders.load import LoadOptions, load_decoder
from serve.generation.protocol import Decoder, Step


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def t5(tmp_path: Path) -> Path:
    config = T5Config(
        vocab_size=50,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    return tmp_path


def load(path: Path, **options: Any) -> Decoder:
    chosen = {"device": "cpu", "precision": "float32", "slots": 2, "native": False, **options}
    return load_decoder(GenerationFolder.read(path), LoadOptions(**chosen))


def change_config(path: Path, **changes: Any) -> None:
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def change_weights(path: Path, drop: str = "", **changes: torch.Tensor) -> None:
    file = path / "model.safetensors"
    tensors = {**load_file(file), **changes}
    save_file({name: t for name, t in tensors.items() if name != drop}, file)


def prompt(slot: int, length: int, first: int = 0) -> Step:
    return Step(
        np.arange(length, dtype=np.int32) % 50,
        np.arange(first, first + length, dtype=np.int32),
        np.full(length, slot, np.int32),
        np.array([length - 1], np.int32),
    )


def test_an_unknown_architecture_names_the_known_ones(llama: Path) -> None:
    change_config(llama, model_type="mamba")
    with pytest.raises(ModelLoadError, match=r"'mamba' does not .* gpt2, llama, mistral, mt5"):
        load(llama)


def test_a_missing_tensor_is_named(llama: Path) -> None:
    change_weights(llama, drop="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(ModelLoadError, match=r"lacks the tensor 'model.layers.1.mlp.up_proj"):
        load(llama)


def test_a_tensor_of_another_shape_is_named(llama: Path) -> None:
    change_weights(llama, **{"model.norm.weight": torch.zeros(31)})
    with pytest.raises(ModelLoadError, match=r"'model.norm.weight' has shape \[31\] .* \[32\]"):
        load(llama)


def test_a_truncated_file_is_found_before_anything_is_read(llama: Path) -> None:
    file = llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match="cut short") as caught:
        load(llama)
    assert caught.value.code == "model_file_truncated"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "scaling 'yarn'; supported"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "scaling 'llama3' needs 'factor'"),
        ({"hidden_act": "mish"}, "activation 'mish'; supported are silu"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two'"),
        ({"hidden_size": None}, "lacks 'hidden_size'"),
        ({"num_key_value_heads": 3}, "cannot share 3 key heads"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1"),
    ],
)
def test_a_config_that_cannot_be_followed(llama: Path, changes: Any, rule: str) -> None:
    change_config(llama, **changes)
    with pytest.raises(ModelLoadError, match=rule):
        load(llama)


def test_attention_that_gpt2_does_not_have_is_refused(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    change_config(tmp_path, scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(ModelLoadError, match="scale_attn_by_inverse_layer_idx"):
        load(tmp_path)


def test_a_sliding_window_shortens_the_context(llama: Path) -> None:
    change_config(llama, model_type="mistral", sliding_window=20)
    assert load(llama).context == 20


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"quantization": "2bit"}, "'2bit' is unknown; known are None, 8bit, 4bit"),
        ({"precision": "float8"}, "'float8' is unknown"),
        ({"device": "tpu"}, "'tpu' is not on this machine"),
        ({"slots": 0}, "0 slots"),
        ({"kv_bytes": 100}, "100 bytes holds 0 positions"),
    ],
)
def test_options_that_do_not_exist(llama: Path, options: Any, rule: str) -> None:
    with pytest.raises(SettingsError, match=rule):
        load(llama, **options)


def test_progress_rises_to_one(llama: Path) -> None:
    told: list[float] = []
    options = LoadOptions(device="cpu", native=False)
    load_decoder(GenerationFolder.read(llama), options, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 5


def test_limits_are_those_of_the_folder(llama: Path) -> None:
    decoder = load(llama, kv_bytes=2 * 2 * 2 * 8 * 4 * 70)
    assert (decoder.vocabulary, decoder.context, decoder.slots) == (50, 64, 2)
    assert decoder.kv_tokens == 70
    assert (decoder.device, decoder.precision, decoder.start_token) == ("cpu", "float32", None)
    decoder.forward(prompt(0, 64))
    with pytest.raises(ContextLengthError, match="would hold 65 positions, this model reads 64"):
        decoder.forward(prompt(0, 1, first=64))
    with pytest.raises(OverloadedError, match="would hold 71 positions"):
        decoder.forward(prompt(1, 7))
    decoder.free(0)
    assert np.isfinite(decoder.forward(prompt(1, 7))).all()


def test_a_causal_model_has_no_source(llama: Path) -> None:
    with pytest.raises(RequestError, match="causal model has no source"):
        load(llama).begin(0, np.zeros(3, np.int32))


def test_a_closed_decoder_answers_no_more(llama: Path) -> None:
    decoder = load(llama)
    assert decoder.resident_bytes > 0
    decoder.close()
    decoder.close()
    decoder.free(0)
    assert decoder.resident_bytes == 0
    with pytest.raises(UnavailableError, match="was closed"):
        decoder.forward(prompt(0, 3))


def test_bad_sources_are_refused(t5: Path) -> None:
    decoder = load(t5)
    assert (decoder.start_token, decoder.context) == (0, 512)
    with pytest.raises(RequestError, match=r"slot 1 has no source; begin\(\) it first"):
        decoder.forward(prompt(1, 1))
    with pytest.raises(RequestError, match=r"token 1 of the source is 50; .* 0 to 49"):
        decoder.begin(0, np.array([3, 50], np.int32))
    with pytest.raises(ContextLengthError, match="a source of 513 tokens"):
        decoder.begin(0, np.zeros(513, np.int32))
    with pytest.raises(ContextLengthError, match="a source of 0 tokens"):
        decoder.begin(0, np.zeros(0, np.int32))
    decoder.begin(0, np.array([3, 4], np.int32))
    decoder.free(0)
    with pytest.raises(RequestError, match="slot 0 has no source"):
        decoder.forward(prompt(0, 1))
    with pytest.raises(RequestError, match="slot 2 does not exist; slots go from 0 to 1"):
        decoder.begin(2, np.array([3], np.int32))


def test_t5_with_an_output_layer_of_its_own(t5: Path) -> None:
    """As T5 1.1 has: not tied to the embeddings, and not scaled."""
    change_config(t5, tie_word_embeddings=False, scale_decoder_outputs=False)
    shared = load_file(t5 / "model.safetensors")["shared.weight"]
    decoder = load(t5)
    decoder.begin(0, np.array([3, 4], np.int32))
    tied = decoder.forward(prompt(0, 3))
    change_weights(t5, **{"lm_head.weight": 2 * shared})
    decoder = load(t5)
    decoder.begin(0, np.array([3, 4], np.int32))
    np.testing.assert_allclose(decoder.forward(prompt(0, 3)), 2 * tied, rtol=1e-4, atol=1e-6)
