"""Adapters merged into their bases compute what they computed beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ironcliw.adapters import describe
from ironcliw.adapters import publish as register
from ironcliw.cli import main
from ironcliw.errors import (
    AdapterError,
    ConflictError,
    ModelLoadError,
    SettingsError,
    StoreError,
    UnsupportedError,
)
from ironcliw.settings import Settings
from native_ops.gguf_export import export_gguf
from tests.unit.train.export.models import logits, make_adapter, make_base
from tests.unit.train.export.test_target import small_files
from train.export.merge import merge
from train.tokenizer import TrainingTokenizer

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "some layers": {"target_modules": ["q_proj", "down_proj"]},
}


def loaded(folder: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_merged_is_what_it_was_beside(tmp_path: Path, kind: str, tied: bool) -> None:
    base = make_base(tmp_path / "base", tie_word_embeddings=tied)
    beside = make_adapter(tmp_path / "adapter", base, **KINDS[kind])
    done = merge(str(tmp_path / "adapter"), tmp_path / "merged", Settings(state_dir=tmp_path))
    assert done.base == str(base)
    merged = loaded(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), logits(beside), rtol=1e-4, atol=1e-4)
    # and not what the base is
    assert (logits(merged) - logits(loaded(base))).abs().max() > 0.1
    tokenizer = TrainingTokenizer.load(str(tmp_path / "merged"), Settings(state_dir=tmp_path))
    assert tokenizer.digest == TrainingTokenizer.load(str(base), Settings()).digest
    record = json.loads((tmp_path / "merged" / "merged.json").read_text())
    assert (record["format_version"], record["base"], record["dtype"]) == (1, "base", "float32")
    assert str(tmp_path) not in (tmp_path / "merged" / "config.json").read_text()


def test_gpt2_whose_weights_lie_the_other_way(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "GPT2")
    beside = make_adapter(tmp_path / "adapter", base, target_modules=["c_attn", "c_proj"])
    merge(str(tmp_path / "adapter"), tmp_path / "merged", Settings(state_dir=tmp_path))
    torch.testing.assert_close(
        logits(loaded(tmp_path / "merged")), logits(beside), rtol=1e-4, atol=1e-4
    )


def test_weights_keep_their_precision(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.bfloat16)
    make_adapter(tmp_path / "adapter", base)
    settings = Settings(state_dir=tmp_path)
    merge(str(tmp_path / "adapter"), tmp_path / "same", settings)
    merge(str(tmp_path / "adapter"), tmp_path / "wide", settings, precision="fp32")
    name = "model.layers.0.mlp.up_proj.weight"
    same = load_file(tmp_path / "same" / "model.safetensors")[name]
    wide = load_file(tmp_path / "wide" / "model.safetensors")[name]
    assert (same.dtype, wide.dtype) == (torch.bfloat16, torch.float32)
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.0.mlp.up_proj"
    change = weights[f"{prefix}.lora_B.weight"] @ weights[f"{prefix}.lora_A.weight"] * 2
    before = load_file(base / "model.safetensors")[name]
    # computed in float32 and rounded once
    assert torch.equal(same, (before.float() + change).bfloat16())


def test_a_base_from_gguf(tmp_path: Path) -> None:
    folder = make_base(tmp_path / "base")
    beside = make_adapter(tmp_path / "adapter", folder)
    export_gguf(folder, tmp_path / "base.gguf", "f32", name="base")
    settings = Settings(state_dir=tmp_path / "state")
    merge(
        str(tmp_path / "adapter"), tmp_path / "merged", settings, base=str(tmp_path / "base.gguf")
    )
    found = logits(loaded(tmp_path / "merged"))
    torch.testing.assert_close(found, logits(beside), rtol=1e-3, atol=1e-3)


def test_a_published_adapter_by_its_name(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    make_adapter(tmp_path / "adapter", base)
    models = {"tiny": {"source": f"dir:{base}", "task": "generation"}}
    settings = Settings.model_validate({"state_dir": tmp_path / "state", "models": models})
    record = describe(tmp_path / "adapter", name="bot", base="tiny", base_weights=base, metrics={})
    register(settings.state_dir, record)
    assert merge("tiny:bot", tmp_path / "a", settings).base == "tiny"
    assert merge("bot", tmp_path / "b", settings).name == "bot"
    make_base(base, seed=5)
    with pytest.raises(AdapterError, match="bot was trained on other weights than tiny has here"):
        merge("bot", tmp_path / "c", settings)


def test_what_cannot_be_merged(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    base = make_base(tmp_path / "base", tie_word_embeddings=True)
    make_adapter(tmp_path / "adapter", base)
    other = make_base(tmp_path / "other", hidden_size=32)
    target = tmp_path / "merged"

    def refused(error: type[Exception], match: str, what: str, **options: Any) -> None:
        with pytest.raises(error, match=match):
            merge(what, target, settings, **options)
        assert not target.exists()

    adapter = str(tmp_path / "adapter")
    refused(AdapterError, r"has 32 (inputs|outputs), not 64", adapter, base=str(other))
    shallow = make_base(tmp_path / "shallow", num_hidden_layers=1)
    refused(AdapterError, r"which has no model.layers.1", adapter, base=str(shallow))
    refused(SettingsError, "is a model without an adapter", str(base))
    refused(SettingsError, "no finished run in .*, no adapter and no model", "nothing")
    make_adapter(tmp_path / "head", base, target_modules=["lm_head", "q_proj"])
    refused(UnsupportedError, "embedding and head at once", str(tmp_path / "head"))
    moved = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(moved.read_text())
    moved.write_text(json.dumps(config | {"base_model_name_or_path": "/gone/base"}))
    refused(SettingsError, "is an adapter of /gone/base, which is not here; give --base", adapter)
    moved.write_text(json.dumps(config | {"peft_type": "IA3"}))
    refused(UnsupportedError, "is a IA3 adapter; LoRA, rsLoRA and DoRA", adapter)
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"cut")
    moved.write_text(json.dumps(config))
    refused(ModelLoadError, "no whole safetensors file", adapter)


def test_a_target_that_exists_or_has_no_room(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    base = make_base(tmp_path / "base")
    make_adapter(tmp_path / "adapter", base)
    target = tmp_path / "merged"
    with small_files(100_000), pytest.raises(StoreError, match="make room") as told:
        merge(str(tmp_path / "adapter"), target, settings)
    assert told.value.code == "disk_full"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["adapter", "base"]
    merge(str(tmp_path / "adapter"), target, settings)
    with pytest.raises(ConflictError, match="exists already"):
        merge(str(tmp_path / "adapter"), target, settings)
    merge(str(tmp_path / "adapter"), target, settings, force=True)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_base(tmp_path / "base")
    make_adapter(tmp_path / "adapter", base)
    words = ["train", "merge", str(tmp_path / "adapter"), "--to", str(tmp_path / "merged")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["folder"] == str(tmp_path / "merged")
    with pytest.raises(SystemExit) as ended:
        main([*words, "--precision", "fp8", "--force"])
    assert ended.value.code == 4
    assert "--precision is 'fp8'; known are auto, fp32, bf16, fp16" in capsys.readouterr().err
