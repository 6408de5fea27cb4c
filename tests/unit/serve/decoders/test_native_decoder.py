"""The compiled decoder: near transformers; the same bits however sequences are cut and mixed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ironcliw.errors import (
    ContextLengthError,
    ModelLoadError,
    OverloadedError,
    SettingsError,
    UnavailableError,
)
from native_ops import binary
from serve.engines.decoders.folder import GenerationFolder
from serve.engines.decoders.load import LoadOptions, load_decoder
from serve.engines.decoders.native import NativeDecoder
from serve.generation.protocol import Decoder, Logits, Step
from tests.unit.serve.decoders.small_models import CONFIGS, Case, make_case, step

CAUSAL = [name for name in CONFIGS if not name.startswith("t5")]


@pytest.fixture(autouse=True)
def compiled() -> None:
    assert binary.load() is not None, "the compiled kernels are absent: run `make native`"


@pytest.fixture(scope="module", params=CAUSAL)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Of sizes that blocks of 32 fill."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    return make_case("llama", tmp_path_factory.mktemp("small"), head_dim=16, **sizes)


def native(case: Case, **options: Any) -> NativeDecoder:
    decoder = case.decoder(native=True, **options)
    assert isinstance(decoder, NativeDecoder)
    return decoder


def error(got: Logits, exact: Logits) -> float:
    """Root mean square of the difference, in standard deviations of what is exact."""
    return float(np.sqrt(np.mean((got - exact) ** 2)) / exact.std())


def rounded_logits(case: Case, dtype: torch.dtype, tokens: np.ndarray) -> Logits:
    """Logits of transformers in float32, all matrices rounded to a type."""
    model = AutoModelForCausalLM.from_pretrained(case.folder.path, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(dtype).float()
    with torch.inference_mode():
        logits: Logits = model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].numpy()
    return logits


def test_logits_equal_transformers(case: Case) -> None:
    tokens = case.sequence(37)
    decoder = native(case)
    logits = decoder.forward(step((1, 0, tokens)))
    assert decoder.precision == "float32"
    assert logits.dtype == np.float32
    assert logits.shape == (37, decoder.vocabulary)
    # the cache is of float16
    assert error(logits, case.reference(tokens)) < 3e-3


@pytest.mark.parametrize(
    ("precision", "dtype", "name"),
    [
        ("auto", torch.bfloat16, "bfloat16"),
        ("bfloat16", torch.bfloat16, "bfloat16"),
        ("float16", torch.float16, "float16"),
    ],
)
def test_in_16_bits_the_weights_alone_are_rounded(
    case: Case, precision: str, dtype: torch.dtype, name: str
) -> None:
    tokens = case.sequence(37)
    decoder = native(case, precision=precision)
    logits = decoder.forward(step((0, 0, tokens)))
    assert decoder.precision == name
    assert error(logits, rounded_logits(case, dtype, tokens)) < 3e-3
    assert error(logits, case.reference(tokens)) < 0.1


def test_16_bit_checkpoints_keep_their_type(tmp_path: Path) -> None:
    case = make_case("llama", tmp_path, dtype=torch.float16)
    decoder = native(case, precision="auto")
    assert decoder.precision == "float16"
    tokens = case.sequence(20)
    logits = decoder.forward(step((0, 0, tokens)))
    assert error(logits, rounded_logits(case, torch.float16, tokens)) < 3e-3


@pytest.mark.parametrize(("quantization", "bound"), [("8bit", 0.05), ("4bit", 0.6)])
def test_quantized_layers_stay_close(small: Case, quantization: Any, bound: float) -> None:
    tokens = small.sequence(40)
    decoder = native(small, quantization=quantization)
    assert decoder.precision == quantization
    assert decoder.resident_bytes < native(small, precision="auto").resident_bytes
    logits = decoder.forward(step((0, 0, tokens)))
    assert 0 < error(logits, small.reference(tokens)) < bound


def test_rows_that_blocks_do_not_fill_are_left_to_torch(tmp_path: Path) -> None:
    case = make_case("llama", tmp_path)
    assert not isinstance(case.decoder(native=True, quantization="8bit"), NativeDecoder)


def test_greedy_text_is_that_of_torch(case: Case) -> None:
    texts = [greedy(decoder, case.sequence(9), 20) for decoder in (native(case), case.decoder())]
    assert texts[0] == texts[1]


def greedy(decoder: Decoder, prompt: np.ndarray, count: int) -> list[int]:
    tokens = [int(decoder.forward(step((0, 0, prompt)))[-1].argmax())]
    while len(tokens) < count:
        last = np.asarray(tokens[-1:], np.int32)
        logits = decoder.forward(step((0, len(prompt) + len(tokens) - 1, last)))
        tokens.append(int(logits[0].argmax()))
    return tokens


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_chunks_single_tokens_and_company_give_the_same_bits(case: Case, precision: str) -> None:
    tokens = case.sequence(50)
    decoder = native(case, precision=precision)
    whole = decoder.forward(step((0, 0, tokens)))
    chunks = [(0, 7), (7, 8), (8, 40), (40, 50)]
    cut = [decoder.forward(step((1, a, tokens[a:b]))) for a, b in chunks]
    single = [decoder.forward(step((2, i, tokens[i : i + 1]))) for i in range(50)]
    np.testing.assert_array_equal(np.concatenate(cut), whole)
    np.testing.assert_array_equal(np.concatenate(single), whole)
    for slot in range(4):
        decoder.free(slot)
    others = [case.sequence(n, seed=n) for n in (3, 11, 60)]
    together = decoder.forward(step((3, 0, others[0]), (1, 0, tokens), (2, 0, others[2])))
    np.testing.assert_array_equal(together[3:53], whole)


def test_rows_are_those_asked_for_in_the_order_of_the_step(case: Case) -> None:
    decoder = native(case)
    tokens = case.sequence(12)
    whole = step((3, 0, tokens), (1, 0, tokens[:5]))
    some = np.array([4, 11, 16], np.int32)
    logits = decoder.forward(Step(whole.tokens, whole.positions, whole.slots, some))
    exact = case.reference(tokens)
    assert error(logits, exact[[4, 11, 4]]) < 3e-3
    np.testing.assert_array_equal(logits[0], logits[2])
    none = decoder.forward(Step(whole.tokens, whole.positions, whole.slots, some[:0]))
    assert none.shape == (0, decoder.vocabulary)


def test_a_lower_position_forgets_what_follows(case: Case) -> None:
    decoder, tokens = native(case), case.sequence(30)
    exact = decoder.forward(step((0, 0, tokens)))
    decoder.forward(step((2, 0, np.concatenate((tokens[:10], case.sequence(25, seed=3))))))
    np.testing.assert_array_equal(decoder.forward(step((2, 10, tokens[10:]))), exact[10:])


def test_a_freed_slot_starts_anew(case: Case) -> None:
    decoder, tokens = native(case), case.sequence(15)
    fresh = decoder.forward(step((0, 0, tokens)))
    decoder.forward(step((1, 0, case.sequence(40, seed=1))))
    decoder.free(1)
    np.testing.assert_array_equal(decoder.forward(step((1, 0, tokens))), fresh)


def test_limits(small: Case) -> None:
    position = 2 * 2 * 2 * 16 * 2  # keys and values, layers, key heads, width, bytes
    decoder = native(small, kv_bytes=position * 130, slots=2)
    assert (decoder.vocabulary, decoder.context, decoder.slots) == (90, 128, 2)
    assert (decoder.kv_tokens, decoder.kv_bytes) == (130, position * 130)
    assert (decoder.device, decoder.start_token) == ("cpu", None)
    decoder.forward(step((0, 0, small.sequence(128))))
    with pytest.raises(ContextLengthError, match="would hold 129 positions, this model reads 128"):
        decoder.forward(step((0, 128, small.sequence(1))))
    with pytest.raises(OverloadedError, match="would hold 131 positions"):
        decoder.forward(step((1, 0, small.sequence(3))))
    with pytest.raises(SettingsError, match=r"100 bytes holds 0 positions .* its 2 slots"):
        native(small, kv_bytes=100, slots=2)


def test_a_cache_smaller_than_the_context(case: Case) -> None:
    """Tables and address space are as large as what a slot may hold, not as the context."""
    shape = case.folder.config
    heads = shape.get("num_key_value_heads") or shape["n_head"]
    width = shape.get("head_dim") or 48 // (shape.get("num_attention_heads") or 4)
    decoder = native(case, kv_bytes=2 * 2 * heads * width * 2 * 20, slots=2)
    assert (decoder.context, decoder.kv_tokens) == (128, 20)
    tokens = case.sequence(20)
    logits = decoder.forward(step((1, 0, tokens)))
    assert error(logits, case.reference(tokens)) < 3e-3
    with pytest.raises(OverloadedError, match="would hold 21 positions"):
        decoder.forward(step((1, 20, tokens[:1])))
    assert decoder.resident_bytes < native(case).resident_bytes


def test_heads_too_wide_are_left_to_torch(tmp_path: Path) -> None:
    case = make_case("llama", tmp_path, head_dim=272, hidden_size=96)
    assert not isinstance(case.decoder(native=True), NativeDecoder)


def test_resident_bytes_are_the_weights_and_the_cache(small: Case) -> None:
    decoder = native(small, kv_bytes=1 << 16)
    stored = sum(tensor.elements for tensor in small.folder.tensors.values()) * 4
    weights = decoder.resident_bytes - decoder.kv_bytes
    assert stored < weights < 1.3 * stored  # and the rotary tables


def test_a_closed_decoder_answers_no_more(small: Case) -> None:
    decoder = native(small)
    decoder.close()
    decoder.free(0)
    assert decoder.resident_bytes == 0
    with pytest.raises(UnavailableError, match="was closed"):
        decoder.forward(step((0, 0, small.sequence(3))))


def test_progress_rises_to_one(small: Case) -> None:
    told: list[float] = []
    load_decoder(GenerationFolder.read(small.folder.path), LoadOptions(device="cpu"), told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert len(told) > 5


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("model.layers.1.mlp.up_proj.weight", r"has shape \[3, 5\] .* \[96, 64\]"),
        ("model.norm.weight", r"has shape \[3, 5\] .* \[64\]"),
        ("model.embed_tokens.weight", r"has shape \[3, 5\] .* \[90, 64\]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    small: Case, tmp_path: Path, name: str, rule: str
) -> None:
    shutil.copytree(small.folder.path, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, name: torch.zeros(3, 5)}, file)
    options = LoadOptions(device="cpu")
    with pytest.raises(ModelLoadError, match=rule):
        load_decoder(GenerationFolder.read(tmp_path), options)
    del tensors[name]
    save_file(tensors, file)
    with pytest.raises(ModelLoadError, match=name):
        load_decoder(GenerationFolder.read(tmp_path), options)


def test_without_the_kernels_torch_computes(small: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "load", lambda: None)
    assert not isinstance(small.decoder(native=True), NativeDecoder)
