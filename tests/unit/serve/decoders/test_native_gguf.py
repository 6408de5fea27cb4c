"""GGUF files computed as they are stored, and damaged ones refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.generation_accuracy import decoder_logits, reference_logits
from ironcliw.errors import ModelLoadError
from native_ops import binary
from native_ops.gguf import GgufFile
from native_ops.gguf_conversion import converted_folder
from serve.engines.decoders import native as native_module
from serve.engines.decoders.load import LoadOptions, load_gguf
from serve.engines.decoders.native import NativeDecoder
from tests.unit.serve.decoders.gguf_models import (
    MODELS,
    TOKENS,
    random_model,
    write_gguf,
    write_sample,
)

TEXT = [7 * i % len(TOKENS) for i in range(40)]
OPTIONS = LoadOptions(device="cpu", slots=2, kv_bytes=1 << 20)
WIDE = {"hidden_size": 256, "intermediate_size": 512}
"""Sizes that super-blocks of 256 fill."""


@pytest.fixture(autouse=True)
def compiled() -> None:
    assert binary.load() is not None, "the compiled kernels are absent: run `make native`"


def load(path: Path, **changes: Any) -> NativeDecoder:
    decoder = load_gguf(path, path.parent, OPTIONS, **changes)
    assert isinstance(decoder, NativeDecoder)
    return decoder


def error(decoder: NativeDecoder, path: Path) -> float:
    """Of the logits, against transformers on the numbers that the file's blocks stand for."""
    exact = reference_logits(path, converted_folder(path, path.parent))(TEXT)
    got = decoder_logits(decoder)(TEXT)
    return float(np.sqrt(np.mean((got - exact) ** 2)) / exact.std())


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0"])
def test_blocks_are_computed_as_they_are_stored(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama", kind)
    decoder = load(path)
    assert decoder.precision == kind
    assert error(decoder, path) < 3e-3


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_super_blocks_are_computed_as_they_are_stored(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama", kind, **WIDE)
    decoder = load(path)
    assert decoder.precision == kind
    assert error(decoder, path) < 3e-3


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize("name", MODELS)
def test_every_architecture(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, name, kind)
    assert error(load(path), path) < 3e-3


@pytest.mark.parametrize(("kind", "sizes"), [("Q5_K", WIDE), ("Q5_1", {})])
def test_blocks_without_a_kernel_become_8_bit_numbers_and_the_log_says_so(
    tmp_path: Path, kind: str, sizes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama", kind, **sizes)
    with caplog.at_level(logging.WARNING):
        decoder = load(path)
    assert decoder.precision == f"{kind} as 8bit"
    assert f"no kernel computes {kind} as stored" in caplog.text
    assert 1e-4 < error(decoder, path) < 0.05


def test_another_precision_is_taken_from_the_converted_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama", "Q8_0")
    options = LoadOptions(device="cpu", slots=2, precision="float32")
    decoder = load_gguf(path, tmp_path, options)
    assert isinstance(decoder, NativeDecoder)
    assert decoder.precision == "float32"
    assert (tmp_path / "converted").exists()


def test_nothing_is_converted(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama-tied", "Q4_1")
    told: list[float] = []
    decoder = load(path, progress=told.append)
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]
    assert told == sorted(told)
    assert told[-1] == 1.0
    stored = sum(tensor.nbytes for tensor in GgufFile.read(path).tensors.values())
    tables = 2 * 128 * 8 * 4
    weights = decoder.resident_bytes - decoder.kv_bytes
    assert stored < weights < 1.3 * stored + tables


def test_large_matrices_are_taken_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama", "Q4_1")
    whole = decoder_logits(load(path))(TEXT)
    sizes: list[int] = []
    real = native_module.pack_weight

    def counted(blocks: torch.Tensor, number: int, rows: int, columns: int) -> torch.Tensor:
        sizes.append(rows * columns)
        return real(blocks, number, rows, columns)

    monkeypatch.setattr(native_module, "pack_weight", counted)
    monkeypatch.setattr(native_module, "_PIECE_NUMBERS", 32 * 64)
    pieces = decoder_logits(load(path))(TEXT)
    assert max(sizes) <= 32 * 64
    np.testing.assert_array_equal(pieces, whole)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelLoadError, match="cut short or damaged") as caught:
        load(path)
    assert caught.value.code == "model_file_truncated"


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0"])
def test_numbers_that_are_none_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama", kind)
    tensor = GgufFile.read(path).tensors["blk.1.ffn_up.weight"]
    content = bytearray(path.read_bytes())
    content[tensor.offset : tensor.offset + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(
        ModelLoadError, match=r"'blk.1.ffn_up.weight' holds infinite numbers or NaN"
    ):
        load(path)


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        # 64 columns of the embedding's shape become 72, and 63
        ((64, 97), (72, 97), "cannot fill|cut short|overlaps|shape"),
        ((64, 97), (63, 97), r"shape \(97, 63\), which Q4_1 blocks of 32 cannot fill"),
        ((64, 97), (1 << 62, 97), "cut short or damaged|overlaps"),
        ((64, 97), (32, 194), r"shape \[194, 32\]|vocab|embeddings"),
    ],
)
def test_absurd_sizes_are_refused(tmp_path: Path, old: Any, new: Any, rule: str) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama-tied", "Q4_1")
    content = path.read_bytes()
    shape = np.array(old, "<u8").tobytes()
    assert content.count(shape) == 1
    path.write_bytes(content.replace(shape, np.array(new, "<u8").tobytes()))
    with pytest.raises(ModelLoadError, match=rule):
        load(path)


def test_an_unknown_block_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama-tied", "Q4_1")
    content = path.read_bytes()
    shape = np.array((64, 97), "<u8").tobytes()
    at = content.index(shape) + len(shape)
    path.write_bytes(content[:at] + (77).to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(ModelLoadError, match="unknown element type 77"):
        load(path)


def test_a_tensor_that_the_metadata_contradicts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    model = random_model("llama")
    model.config.intermediate_size = 64
    write_gguf(model, "llama", path)
    with pytest.raises(
        ModelLoadError, match=r"'blk.0.ffn_gate.weight' has shape \[96, 64\] .* \[64, 64\]"
    ):
        load(path)


def test_an_absurd_context_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama-tied", "Q4_1")
    content = path.read_bytes()
    key = b"llama.context_length"
    at = content.index(key) + len(key) + 4
    path.write_bytes(content[:at] + (2**31).to_bytes(4, "little") + content[at + 4 :])
    decoder = load(path)
    assert decoder.context == 2**31
    assert decoder.resident_bytes < 4 << 20
    assert np.isfinite(decoder_logits(decoder)(TEXT)).all()


def test_absurd_heads_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_sample(path, "llama-tied", "Q4_1")
    content = path.read_bytes()
    for name in (b"llama.attention.head_count_kv", b"llama.feed_forward_length"):
        at = content.index(name) + len(name) + 4
        path.write_bytes(content[:at] + (2**30).to_bytes(4, "little") + content[at + 4 :])
        with pytest.raises(ModelLoadError, match=r"shape|cannot share"):
            load(path)


def test_damaged_files_load_or_say_why(tmp_path: Path) -> None:
    """Single bytes of the front, where counts, types and places are, set to anything."""
    path = tmp_path / "model.gguf"
    write_sample(path, "llama-tied", "Q4_1")
    content = path.read_bytes()
    front = min(tensor.offset for tensor in GgufFile.read(path).tensors.values())
    generator = np.random.default_rng(3)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        damaged[generator.integers(front)] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            decoder_logits(load(path))([1, 2, 3])
        except ModelLoadError:
            refused += 1
    assert 10 < refused < 150
