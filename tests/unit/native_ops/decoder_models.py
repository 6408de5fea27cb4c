"""Random models of the two families for `decoder_step`, small enough to compare bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from gguf import GGMLQuantizationType, quants

from native_ops.decoder_adapters import LowRank, PackedAdapter, pack_adapter
from native_ops.decoder_model import DecoderModel
from native_ops.decoder_plan import (
    LAYER_MATRICES,
    LAYER_VECTORS,
    MODEL_VECTORS,
    DecoderLayout,
    DecoderShape,
    DecoderWeights,
    rotary_tables,
    slot_elements,
)
from native_ops.packed_linear import (
    FORMATS,
    pack_weight,
    quantize_rows_int8,
    quantize_rows_q4,
    source_bytes,
)

LLAMA = DecoderShape(64, 4, 2, 16, 96, 2, 107, 300, 1e-5)
"""Two queries share a key; the context is more than two spans of attention."""
QWEN3 = DecoderShape(64, 3, 1, 32, 128, 2, 64, 160, 1e-6)
GPT2 = DecoderShape(
    48, 4, 4, 12, 80, 2, 101, 150, 1e-5, normalization="layer", activation="gelu_tanh", gated=False
)
"""Widths that fill no vector and no group of 16 rows."""

WIDE = DecoderShape(256, 4, 2, 64, 256, 1, 107, 200, 1e-5)
"""Widths that are multiples of a super-block of Q4_K and Q6_K."""

SLOTS = 3
NO_ADAPTERS = ([], [], torch.empty(0, dtype=torch.int32))
"""What `decoder_step` takes after the step where no row is under an adapter."""

Step = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
_HEAD_NORMS = ("query_norm.weight", "key_norm.weight")


@dataclass(frozen=True)
class Model:
    """What `decoder_step` takes before the step itself."""

    shape: DecoderShape
    weights: torch.Tensor
    plan: torch.Tensor

    def cache(self) -> torch.Tensor:
        return torch.zeros(SLOTS * slot_elements(self.shape), dtype=torch.float16)


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
    elif kind in ("Q4_0", "Q8_0"):
        blocks = quants.quantize(weight.numpy(), GGMLQuantizationType(FORMATS[kind]))
        source = torch.from_numpy(blocks).flatten()
    elif kind in ("Q4_K", "Q6_K"):
        source = _super_blocks(weight, kind)
    else:
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
        source = weight.to(dtype).view(torch.uint8).flatten()
    result: torch.Tensor = pack_weight(source, FORMATS[kind], rows, columns)
    return result


def _super_blocks(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """Random ones, whose numbers are about as large as the weight's: nobody quantises here."""
    rows, columns = weight.shape
    nbytes, count = source_bytes(FORMATS[kind], 1, 256), rows * columns // 256
    generator = torch.Generator().manual_seed(rows + columns)
    blocks = torch.randint(0, 256, (count, nbytes), dtype=torch.uint8, generator=generator)
    # a number is the super-block's factor times one of about these sizes
    for at, size in {"Q4_K": {0: 300, 2: 32}, "Q6_K": {208: 1400}}[kind].items():
        factor = (weight.std() / size).half().repeat(count)
        blocks[:, at : at + 2] = factor.view(torch.uint8).view(-1, 2)
    return blocks.flatten()


def logits64(model: Model, tokens: Tokens) -> torch.Tensor:
    """Of the packed weights' numbers, sequence by sequence, without a cache, in float64."""
    part = DecoderModel(model.weights, model.plan, len(model.cache()))
    ids, slots = torch.tensor(tokens.ids), torch.tensor(tokens.slots)
    logits = torch.empty(len(ids), model.shape.vocabulary, dtype=torch.float64)
    for slot in sorted(set(tokens.slots)):
        logits[slots == slot] = _sequence64(part, ids[slots == slot])
    return logits


def _sequence64(part: DecoderModel, ids: torch.Tensor) -> torch.Tensor:
    shape, places = part.shape, torch.arange(len(ids))

    def vector(name: str) -> torch.Tensor | None:
        found = part.vector(name)
        return None if found is None else found.double()

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, part.matrix(name).double(), vector(f"{name}.bias"))

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = vector(f"{name}.weight"), vector(f"{name}.bias")
        if shape.normalization == "layer":
            return F.layer_norm(x, (x.shape[-1],), weight, bias, shape.epsilon)
        return F.rms_norm(x, (x.shape[-1],), weight, shape.epsilon)

    def heads(name: str, x: torch.Tensor) -> torch.Tensor:
        """[heads, N, d], normed and turned where the model does."""
        y = linear(name, x).view(len(x), -1, shape.head_width).transpose(0, 1)
        own = name.replace("query", "query_norm").replace("key", "key_norm")
        if own != name and part.has(f"{own}.weight"):
            y = F.rms_norm(y, (y.shape[-1],), vector(f"{own}.weight"), shape.epsilon)
        cosine, sine = vector("rotary.cosine"), vector("rotary.sine")
        if cosine is None or sine is None or own == name:
            return y
        turn = torch.complex(cosine, sine).view(shape.context, -1)[places]
        turned = torch.complex(*y.chunk(2, -1)) * turn
        return torch.cat((turned.real, turned.imag), -1)

    x = part.matrix("embedding").double()[ids]
    if part.has("positions"):
        x = x + part.matrix("positions").double()[places]
    later = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    for layer in (f"layers.{index}." for index in range(shape.layers)):
        normed = norm(f"{layer}attention_norm", x)
        query, key, value = (heads(layer + name, normed) for name in ("query", "key", "value"))
        key, value = (t.repeat_interleave(shape.heads // shape.kv_heads, 0) for t in (key, value))
        scores = (query @ key.mT * shape.scale).masked_fill(later, -torch.inf).softmax(-1)
        x = x + linear(f"{layer}output", (scores @ value).transpose(0, 1).flatten(1))
        normed = norm(f"{layer}mlp_norm", x)
        up = linear(f"{layer}up", normed)
        inner = linear(f"{layer}gate", normed) if shape.gated else up
        inner = F.silu(inner) if shape.activation == "silu" else F.gelu(inner, approximate="tanh")
        x = x + linear(f"{layer}down", inner * up if shape.gated else inner)
    return F.linear(norm("norm", x), part.matrix("head").double())


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


def random_adapter(
    shape: DecoderShape,
    ranks: int,
    *,
    targets: Sequence[str] = LAYER_MATRICES,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> PackedAdapter:
    """Changes that show, of the targets that the model has."""
    generator = torch.Generator().manual_seed(seed)
    changes = {}
    for layer in range(shape.layers):
        for target in targets:
            if target == "gate" and not shape.gated:
                continue
            outputs, inputs = shape.matrix_size(target)
            a = torch.randn(ranks, inputs, generator=generator) * inputs**-0.5
            b = torch.randn(outputs, ranks, generator=generator) * ranks**-0.5
            changes[f"layers.{layer}.{target}"] = LowRank(a, b, 0.5)
    return pack_adapter(shape, changes, dtype)


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
