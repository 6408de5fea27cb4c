"""Adapters in the compiled decoder: as peft has them, beside each other, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ironcliw.errors import AdapterError
from serve.engines.decoders.native import NativeDecoder
from serve.generation.protocol import LoadedAdapter, Step
from tests.unit.serve.decoders.small_adapters import logits_of, peft_model, save_adapter
from tests.unit.serve.decoders.small_models import Case, make_case, step

KINDS = ("llama", "llama3", "llama-linear", "mistral", "qwen2", "qwen3", "gpt2")
MESSAGES = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    made: dict[str, Case] = {}

    def case(kind: str) -> Case:
        if kind not in made:
            made[kind] = make_case(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return case


def native(case: Case, **options: Any) -> NativeDecoder:
    return cast(NativeDecoder, case.decoder(native=True, **options))


def under(plain: Step, *adapters: LoadedAdapter | None) -> Step:
    """A step whose slots are each under one of these, or none."""
    loaded = tuple({id(one): one for one in adapters if one is not None}.values())
    numbers = [-1 if one is None else loaded.index(one) for one in adapters]
    rows = np.array([numbers[slot] for slot in plain.slots] if loaded else [], np.int32)
    return dataclasses.replace(plain, adapters=loaded, row_adapters=rows)


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_peft_and_the_merged_model_compute(
    cases: Callable[[str], Case], kind: str, tmp_path: Path
) -> None:
    case = cases(kind)
    model = peft_model(case)
    tokens = case.sequence(30)
    expected = logits_of(model, tokens)
    decoder = native(case)
    adapter = decoder.read_adapter(save_adapter(model, tmp_path))
    found = decoder.forward(under(step((0, 0, tokens)), adapter))
    np.testing.assert_allclose(found, expected, atol=2e-2)
    merged = logits_of(model.merge_and_unload(), tokens)
    np.testing.assert_allclose(found, merged, atol=2e-2)
    assert np.abs(expected - case.reference(tokens)).max() > 1


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"], "r": 3},
        {"target_modules": ["k_proj", "o_proj"], "r": 64},
        {"target_modules": ["gate_proj", "down_proj"], "use_rslora": True},
        {"rank_pattern": {"q_proj": 7}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
    ],
)
def test_ranks_targets_and_scales_are_those_of_the_configuration(
    cases: Callable[[str], Case], options: dict[str, Any], tmp_path: Path
) -> None:
    case = cases("llama")
    model = peft_model(case, **options)
    tokens = case.sequence(20)
    decoder = native(case)
    adapter = decoder.read_adapter(save_adapter(model, tmp_path))
    found = decoder.forward(under(step((0, 0, tokens)), adapter))
    np.testing.assert_allclose(found, logits_of(model, tokens), atol=2e-2)


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_a_mixed_batch_gives_each_the_bits_that_it_has_alone(
    cases: Callable[[str], Case], precision: str, tmp_path: Path
) -> None:
    case = cases("llama")
    decoder = native(case, precision=precision)
    first, second = (
        decoder.read_adapter(
            save_adapter(peft_model(case, seed=seed, r=rank), tmp_path / str(seed))
        )
        for seed, rank in ((0, 4), (1, 16))
    )
    owners = [first, None, second, first]
    sequences = [case.sequence(length, seed) for seed, length in enumerate((9, 21, 5, 1))]
    together = decoder.forward(
        under(step(*((slot, 0, tokens) for slot, tokens in enumerate(sequences))), *owners)
    )
    starts = np.cumsum([0, *map(len, sequences)])
    for slot, tokens in enumerate(sequences):
        for other in range(4):
            decoder.free(other)
        alone = decoder.forward(under(step((0, 0, tokens)), owners[slot]))
        assert np.array_equal(alone, together[starts[slot] : starts[slot + 1]])


def test_single_steps_give_the_bits_of_the_prompt(
    cases: Callable[[str], Case], tmp_path: Path
) -> None:
    case = cases("llama")
    decoder = native(case)
    adapter = decoder.read_adapter(save_adapter(peft_model(case), tmp_path))
    tokens = case.sequence(12)
    whole = decoder.forward(under(step((0, 0, tokens)), adapter))
    for position in range(12):
        one = under(step((1, position, tokens[position : position + 1])), None, adapter)
        assert np.array_equal(decoder.forward(one)[0], whole[position])


def test_keys_and_values_of_one_adapter_are_not_read_under_another(
    cases: Callable[[str], Case], tmp_path: Path
) -> None:
    case = cases("llama")
    decoder = native(case)
    adapter = decoder.read_adapter(save_adapter(peft_model(case), tmp_path))
    tokens = case.sequence(12)
    base = decoder.forward(step((0, 0, tokens)))
    decoder.forward(under(step((0, 0, tokens)), adapter))
    assert np.array_equal(decoder.forward(step((0, 0, tokens))), base)


def test_what_it_holds_is_counted(cases: Callable[[str], Case], tmp_path: Path) -> None:
    case = cases("llama")
    model = peft_model(case, r=16)
    adapter = native(case, precision="auto").read_adapter(save_adapter(model, tmp_path))
    numbers = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    assert 2 * numbers <= adapter.resident_bytes <= 2.5 * numbers + 10_000
    assert adapter.precision == "bfloat16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, r"\(DoRA\), which cannot be computed beside other adapters; merge"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "it trains biases"),
        ({"target_modules": ["embed_tokens"]}, "neither an A nor a B of LoRA"),
        ({"target_modules": ["lm_head"]}, "lm_head.* is neither an A nor a B of LoRA; merge it"),
    ],
)
def test_what_is_no_low_rank_change_of_a_layer_is_refused(
    cases: Callable[[str], Case], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    case = cases("llama")
    folder = save_adapter(peft_model(case, **options), tmp_path)
    with pytest.raises(AdapterError, match=message):
        native(case).read_adapter(folder)


def test_an_adapter_of_another_model_is_refused(
    cases: Callable[[str], Case], tmp_path: Path
) -> None:
    other = make_case("llama", tmp_path / "other", hidden_size=96, num_hidden_layers=1)
    folder = save_adapter(peft_model(other), tmp_path / "adapter")
    with pytest.raises(AdapterError, match=r"q_proj has A \[4, 96\] .* it belongs to another mod"):
        native(cases("llama")).read_adapter(folder)
    deeper = make_case("llama", tmp_path / "deeper", num_hidden_layers=3)
    folder = save_adapter(peft_model(deeper), tmp_path / "deep")
    with pytest.raises(AdapterError, match=r"layers\.2\..* is no matrix of a layer of this model"):
        native(cases("llama")).read_adapter(folder)


def damage(folder: Path, how: str) -> None:
    config = json.loads((folder / MESSAGES).read_text())
    tensors = load_file(folder / WEIGHTS)
    some = next(iter(tensors))
    if how == "cut":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-50])
        return
    if how == "kind":
        config["peft_type"] = "IA3"
    elif how == "rank":
        config["r"] = 8
    elif how == "alpha":
        config["lora_alpha"] = "much"
    elif how == "half":
        del tensors[some]
    elif how == "infinite":
        tensors[some] = torch.full_like(tensors[some], torch.inf)
    (folder / MESSAGES).write_text("{" if how == "json" else json.dumps(config))
    save_file({} if how == "none" else tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", r"adapter_model\.safetensors is damaged .*; publish the adapter again"),
        ("json", r"adapter_config\.json is not JSON"),
        ("kind", "peft_type is 'IA3'; only LoRA is served"),
        ("rank", r"rank 8 on this model asks for \[8, 48\]"),
        ("alpha", "lora_alpha.* is 'much'; a number above 0 is expected|alpha of .* is 'much'"),
        ("half", "only lora_B is there"),
        ("infinite", "holds a number that is not finite"),
        ("none", "holds no tensors"),
    ],
)
def test_damaged_files_are_refused(
    cases: Callable[[str], Case], how: str, message: str, tmp_path: Path
) -> None:
    case = cases("llama")
    folder = save_adapter(peft_model(case), tmp_path)
    damage(folder, how)
    with pytest.raises(AdapterError, match=message):
        native(case).read_adapter(folder)
