"""An encoder's adapter merged into its base gives the vectors of the adapter as it is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ironcliw.encoder_folder import EncoderFolder
from ironcliw.errors import AdapterError, UnsupportedError
from ironcliw.settings import Settings
from serve.engines.encoder import load_encoder
from serve.engines.packed import PackedEncoder
from serve.engines.protocol import PackedTokens, Vectors
from tests.unit.serve.lora_encoders import save_adapter
from tests.unit.train.embedding.encoders import make_encoder
from tests.unit.train.export.models import make_adapter, make_base
from train.export.merge import merge

TEXTS = [np.array([2, *range(4, 4 + more), 3], np.int32) for more in (3, 9, 17)]


def engine_of(folder: Path) -> PackedEncoder:
    read = EncoderFolder.read(folder)
    return cast(PackedEncoder, load_encoder(read, device="cpu", precision="float32"))


def served(base: Path, adapter: Path) -> Vectors:
    engine = engine_of(base)
    under = np.zeros(len(TEXTS), np.int32)
    packed = PackedTokens.pack(TEXTS)
    batch = PackedTokens(packed.tokens, packed.lengths, cast(tuple, (0,)), under)  # type: ignore[type-arg]
    return engine.embed_adapted(batch, [engine.read_adapter(adapter)])


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_a_merged_encoder_gives_the_served_adapters_vectors(tmp_path: Path, kind: str) -> None:
    base = make_encoder(tmp_path / "base", kind, pooling="cls")
    adapter = save_adapter(base, tmp_path / "adapter", 1)
    merge(str(adapter), tmp_path / "merged", Settings(state_dir=tmp_path / "state"))
    merged = engine_of(tmp_path / "merged").embed(PackedTokens.pack(TEXTS))
    assert np.abs(merged - served(base, adapter)).max() < 2e-5
    plain = engine_of(base).embed(PackedTokens.pack(TEXTS))
    assert np.abs(merged - plain).max() > 1e-2
    copied = (tmp_path / "merged" / "tokenizer.json").read_bytes()
    assert copied == (base / "tokenizer.json").read_bytes()
    record = json.loads((tmp_path / "merged" / "merged.json").read_text())
    assert record["dtype"] == "float32"


def test_a_merged_encoder_of_another_precision_says_so(tmp_path: Path) -> None:
    base = make_encoder(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", 0)
    settings = Settings(state_dir=tmp_path / "state")
    merge(str(adapter), tmp_path / "merged", settings, precision="bf16")
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


def test_tensors_that_no_module_takes_are_an_error(tmp_path: Path) -> None:
    base = make_encoder(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", 0)
    file = adapter / "adapter_model.safetensors"
    front = "base_model.model."
    tensors = load_file(file)
    # as of an adapter that was trained below a head
    renamed = {
        f"{front}bert.{name.removeprefix(front)}": tensor for name, tensor in tensors.items()
    }
    save_file(renamed, file)
    settings = Settings(state_dir=tmp_path / "state")
    with pytest.raises(AdapterError, match="of its tensors have no place there, such as"):
        merge(str(adapter), tmp_path / "merged", settings)
    del tensors[next(name for name in tensors if "lora_B" in name)]
    save_file(tensors, file)
    with pytest.raises(AdapterError, match="1 that it needs are absent, such as"):
        merge(str(adapter), tmp_path / "merged", settings)
    assert not (tmp_path / "merged").exists()


def test_a_base_of_another_kind_is_named(tmp_path: Path) -> None:
    import transformers

    base = make_base(tmp_path / "base")
    make_adapter(tmp_path / "adapter", base)
    t5 = transformers.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=1)
    t5.save_pretrained(base)
    with pytest.raises(UnsupportedError, match="is a t5; adapters are merged into causal language"):
        merge(str(tmp_path / "adapter"), tmp_path / "merged", Settings(state_dir=tmp_path))
