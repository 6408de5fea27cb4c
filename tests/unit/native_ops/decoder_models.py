"""Random models of the two families for `decoder_step`, small enough to compare bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from native_ops.decoder_plan import (
    LAYER_MATRICES,
    LAYER_VECTORS,
    MODEL_VECTORS,
    DecoderLayout,
    DecoderShape,
    DecoderWeights,
    cache_elements,
    rotary_tables,
)
from native_ops.packed_linear import FORMATS, pack_weight, quantize_rows_int8, quantize_rows_q4

LLAMA = DecoderShape(64, 4, 2, 16, 96, 2, 107, 300, 1e-5)
"""Two queries share a key; the context is more than two spans of attention."""
QWEN3 = DecoderShape(64, 3, 1, 32, 128, 2, 64, 160, 1e-6)
GPT2 = DecoderShape(
    48, 4, 4, 12, 80, 2, 101, 150, 1e-5, normalization="layer", activation="gelu_tanh", gated=False
)
"""Widths that fill no vector and no group of 16 rows."""

SLOTS = 3
Step = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
_HEAD_NORMS = ("query_norm.weight", "key_norm.weight")


@dataclass(frozen=True)
class Model:
    """What `decoder_step` takes before the step itself."""

    shape: DecoderShape
    weights: torch.Tensor
    plan: torch.Tensor

    def cache(self) -> torch.Tensor:
        return torch.zeros(cache_elements(self.shape, SLOTS), dtype=torch.float16)


@dataclass(frozen=True)
class Tokens:
    """A step, or what a sequence is cut from."""

    ids: list[int]
    positions: list[int]
    slots: list[int]

    def tensors(self, logit_rows: Sequence[int] | None = None) -> Step:
        rows = range(len(self.ids)) if logit_rows is None else logit_rows
        parts = (self.ids, self.positions, self.slots, list(rows))
        ids, positions, slots, wanted = (torch.tensor(part, dtype=torch.int32) for part in parts)
        return ids, positions, slots, wanted


def tokens_of(lengths: Sequence[int], vocabulary: int, seed: int = 0) -> Tokens:
    """A random sequence of each length, in slots 0, 1, ..."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (sum(lengths),), generator=generator).tolist()
    positions = [position for length in lengths for position in range(length)]
    slots = [slot for slot, length in enumerate(lengths) for _ in range(length)]
    return Tokens(ids, positions, slots)


def packed(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """A float matrix in one of the packed formats."""
    rows, columns = weight.shape
    if kind == "INT8":
        source = quantize_rows_int8(weight)
    elif kind == "Q4_1":
        source = quantize_rows_q4(weight)
    else:
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
        source = weight.to(dtype).view(torch.uint8).flatten()
    result: torch.Tensor = pack_weight(source, FORMATS[kind], rows, columns)
    return result


def random_model(shape: DecoderShape, kind: str, *, planes: int = 1, seed: int = 0) -> Model:
    """GPT2's shape gets learned positions and biases, QWEN3's norms over heads."""
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, torch.Tensor] = {}
    learned = shape.normalization == "layer"
    for name in _matrix_names(shape, learned):
        rows, columns = shape.matrix_size(name.split(".")[-1])
        scale = 0.5 if name in ("embedding", "positions") else columns**-0.5
        weight = torch.randn(rows, columns, generator=generator) * scale
        parts[name] = packed(weight, kind)
    for name in _vector_names(shape, learned):
        size = shape.vector_size(name.split(".", 2)[2] if name.startswith("layers.") else name)
        values = torch.randn(size, generator=generator) * 0.1
        parts[name] = values + 1 if name.endswith("weight") else values
    if not learned:
        exponents = torch.arange(0, shape.head_width, 2) / shape.head_width
        tables = rotary_tables(10000.0**-exponents, shape.context)
        parts["rotary.cosine"], parts["rotary.sine"] = tables
    return _lay_out(shape, parts, kind, planes)


def _lay_out(shape: DecoderShape, parts: dict[str, torch.Tensor], kind: str, planes: int) -> Model:
    layout = DecoderLayout(shape)
    for name, values in parts.items():
        if values.dtype == torch.uint8:
            layout.matrix(name, FORMATS[kind], values.numel(), planes)
        else:
            layout.vector(name)
    layout.tie("head", "embedding")
    weights = DecoderWeights(layout)
    for name, values in parts.items():
        weights.write(name, values)
    assert not weights.missing
    return Model(shape, weights.bytes, layout.plan(SLOTS))


def _matrix_names(shape: DecoderShape, learned: bool) -> list[str]:
    names = ["embedding", *(["positions"] if learned else [])]
    kinds = [kind for kind in LAYER_MATRICES if shape.gated or kind != "gate"]
    return names + [f"layers.{i}.{kind}" for i in range(shape.layers) for kind in kinds]


def _vector_names(shape: DecoderShape, biased: bool) -> list[str]:
    names = [name for name in MODEL_VECTORS if not name.startswith("rotary")]
    names += [f"layers.{i}.{name}" for i in range(shape.layers) for name in LAYER_VECTORS]
    return [name for name in names if _wanted(shape, name, biased)]


def _wanted(shape: DecoderShape, name: str, biased: bool) -> bool:
    if name.endswith(_HEAD_NORMS):
        return shape.kv_heads == 1  # QWEN3's
    if name.endswith(("norm.bias", "output.bias", "up.bias", "down.bias")):
        return biased
    if name.endswith("gate.bias"):
        return False
    return biased or shape.kv_heads == 2 or not name.endswith("bias")  # LLAMA's as Qwen2's: q, k, v
