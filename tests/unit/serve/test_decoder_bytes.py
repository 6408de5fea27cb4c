"""Estimates of decoders against what they hold once they are loaded."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.generation_work import gguf_file
from ironcliw.catalog import Catalog, ModelCard
from ironcliw.errors import ModelLoadError
from ironcliw.setting_sections import ServeSettings
from native_ops import binary, presence
from native_ops.gguf import GgufFile
from native_ops.gguf_conversion import converted_folder
from serve.engines.decoder_bytes import folder_bytes, gguf_bytes
from serve.engines.decoders.folder import GenerationFolder
from serve.engines.decoders.load import LoadOptions, load_decoder, load_gguf
from serve.engines.decoders.projections import Quantization
from serve.engines.registry import estimate_bytes
from tests.unit.serve.decoders.gguf_models import write_sample

SETTINGS = ServeSettings(device="cpu", kv_cache_bytes=1 << 20, generation_slots=2)
OPTIONS = LoadOptions(device="cpu", slots=2, kv_bytes=1 << 20)
WIDE = {"hidden_size": 256, "intermediate_size": 512}


def card(path: Path, **changes: Any) -> ModelCard:
    known = Catalog()["SmolLM2-135M-Instruct"]
    # the bundled model is pinned to how its file is; here every engine is asked for by itself
    plain: dict[str, Any] = {"engine": None, "quantization": None, "source": f"dir:{path}"}
    return dataclasses.replace(known, id="mine", **{**plain, **changes})


@pytest.fixture
def compiled() -> None:
    assert binary.load() is not None, "the compiled kernels are absent: run `make native`"


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K", "Q5_K"])
def test_a_gguf_file_counts_as_the_kernels_keep_it(
    kind: str, tmp_path: Path, compiled: None
) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama", kind, **WIDE)
    decoder = load_gguf(path, tmp_path, OPTIONS)
    held = decoder.resident_bytes - decoder.kv_bytes
    # beside the weights there are alignment, the plan of a step and rows filled up to 16
    assert 0.95 * held < gguf_bytes(path, card(path), SETTINGS) < 1.02 * held


def test_the_bundled_model(compiled: None, tmp_path: Path) -> None:
    path = gguf_file()
    # a cache for the whole context, for each position of which sines and cosines are kept
    settings = SETTINGS.model_copy(update={"kv_cache_bytes": 1 << 29})
    options = dataclasses.replace(OPTIONS, slots=8, kv_bytes=1 << 29)
    decoder = load_gguf(path, tmp_path, options)
    whole = estimate_bytes(card(path), tmp_path, settings)
    weights = gguf_bytes(path, card(path), settings)
    assert whole == weights + settings.kv_cache_bytes
    assert 0.999 * decoder.resident_bytes < whole < 1.001 * decoder.resident_bytes
    assert weights < 1.01 * path.stat().st_size


@pytest.mark.parametrize("quantization", [None, "8bit", "4bit"])
def test_a_folder(quantization: Quantization | None, tmp_path: Path, compiled: None) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama", "F32", **WIDE)
    folder = converted_folder(path, tmp_path)
    options = dataclasses.replace(OPTIONS, quantization=quantization)
    decoder = load_decoder(GenerationFolder.read(folder), options)
    held = decoder.resident_bytes - decoder.kv_bytes
    changes = {} if quantization is None else {"quantization": quantization}
    # this small, sines and cosines and the vectors in float32 weigh more
    assert 0.85 * held < folder_bytes(folder, card(folder, **changes), SETTINGS) < 1.02 * held


@pytest.mark.parametrize(
    ("changes", "factor"),
    [({"precision": "float32"}, 4.0), ({"precision": "bfloat16"}, 2.0), ({"device": "cuda"}, 2.0)],
    ids=str,
)
def test_what_is_converted_counts_by_its_numbers(
    changes: dict[str, str], factor: float, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama", "Q4_1")
    settings = SETTINGS.model_copy(update=changes)
    numbers = sum(tensor.rows * tensor.shape[-1] for tensor in GgufFile.read(path).tensors.values())
    assert gguf_bytes(path, card(path), settings) == numbers * factor


def test_without_kernels_everything_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama", "Q4_1")
    packed = gguf_bytes(path, card(path), SETTINGS)
    monkeypatch.setattr(presence, "installed", lambda: False)
    assert gguf_bytes(path, card(path), SETTINGS) > 4 * packed
    monkeypatch.setattr(sys, "platform", "darwin")  # Apple's GPU, in float16
    automatic = SETTINGS.model_copy(update={"device": "auto"})
    assert 2 * packed < gguf_bytes(path, card(path), automatic) < 4 * packed


def test_llama_cpp_holds_the_file_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(96))
    model = card(tmp_path / "model.gguf", engine="llamacpp")
    assert estimate_bytes(model, tmp_path, SETTINGS) == 100 + SETTINGS.kv_cache_bytes


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(96))
    with pytest.raises(ModelLoadError, match="version"):
        estimate_bytes(card(tmp_path / "model.gguf"), tmp_path, SETTINGS)
