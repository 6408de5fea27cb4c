"""What the fused decoder step is given: one tensor with all weights, and a plan that says where.

    shape -> DecoderLayout (parts declared: their sizes are known before any is read)
          -> DecoderWeights (one allocation, parts written in any order) + plan(slots)

The plan is an int64 tensor that the operator `decoder_step` reads: a header, the records of the
whole model, then those of each layer. csrc/decoder_plan.cpp reads the same numbers.

Parts, by name. Matrices are [outputs, inputs], packed as native_ops/packed_linear.py does:

    embedding [V, D]    head [V, D]    positions [context, D] (learned ones)
    layers.I.query [H d, D]    .key and .value [K d, D]    .output [D, H d]
    layers.I.gate and .up [F, D]    .down [D, F]

Vectors, float32:

    norm.weight and norm.bias [D]    rotary.cosine and rotary.sine [context * d / 2]
    layers.I.attention_norm.weight and .bias [D]    .mlp_norm.weight and .bias [D]
    layers.I.query.bias [H d]    .key.bias and .value.bias [K d]    .output.bias [D]
    layers.I.query_norm.weight and .key_norm.weight [d]
    layers.I.gate.bias and .up.bias [F]    .down.bias [D]

V vocabulary, D width, H heads, K key and value heads, d width of a head, F inner width. Biases
(not those of LayerNorm), head norms, `positions` and `rotary.*` may be absent, and `gate` is there
only where the model is gated.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

import torch

from native_ops.huge_pages import zeros_in_huge_pages

VERSION = 1
"""Of the plan's numbers; csrc/decoder_plan.h has the same."""

ALIGNMENT = 64
"""Bytes; every part starts at a multiple."""

ABSENT = -1

Normalization = Literal["rms", "layer"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
NORMALIZATIONS: tuple[Normalization, ...] = ("rms", "layer")
ACTIVATIONS: tuple[Activation, ...] = ("silu", "gelu", "gelu_tanh", "relu")
_SLOT_ELEMENTS = 8192
"""A slot's elements are a multiple: 16 KiB, so that its memory pages are its own."""

MODEL_MATRICES = ("embedding", "head", "positions")
MODEL_VECTORS = ("norm.weight", "norm.bias", "rotary.cosine", "rotary.sine")
LAYER_MATRICES = ("query", "key", "value", "output", "gate", "up", "down")
LAYER_VECTORS = (
    "attention_norm.weight",
    "attention_norm.bias",
    "query.bias",
    "key.bias",
    "value.bias",
    "query_norm.weight",
    "key_norm.weight",
    "output.bias",
    "mlp_norm.weight",
    "mlp_norm.bias",
    "gate.bias",
    "up.bias",
    "down.bias",
)


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """A causal model of the Llama or GPT-2 family.

    Attributes:
        width: D.
        heads: H.
        kv_heads: K; H is a multiple.
        head_width: d.
        inner: F.
        layers: Of the model.
        vocabulary: V.
        context: Most positions of a sequence.
        epsilon: Of every norm.
        normalization: RMSNorm or LayerNorm.
        activation: Of the inner layer; `gelu_tanh` is GPT-2's.
        gated: activation(gate) * up instead of activation(up).
        score_scale: Factor of attention's scores; None: 1 / sqrt(d).
    """

    width: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int
    layers: int
    vocabulary: int
    context: int
    epsilon: float
    normalization: Normalization = "rms"
    activation: Activation = "silu"
    gated: bool = True
    score_scale: float | None = None

    @property
    def scale(self) -> float:
        """Factor of attention's scores."""
        return self.head_width**-0.5 if self.score_scale is None else self.score_scale

    def matrix_size(self, name: str) -> tuple[int, int]:
        """Rows and columns of a matrix, by its name without `layers.I.`."""
        query, key = self.heads * self.head_width, self.kv_heads * self.head_width
        return {
            "embedding": (self.vocabulary, self.width),
            "head": (self.vocabulary, self.width),
            "positions": (self.context, self.width),
            "query": (query, self.width),
            "key": (key, self.width),
            "value": (key, self.width),
            "output": (self.width, query),
            "gate": (self.inner, self.width),
            "up": (self.inner, self.width),
            "down": (self.width, self.inner),
        }[name]

    def vector_size(self, name: str) -> int:
        """Elements of a vector, by its name without `layers.I.`."""
        if name.startswith("rotary."):
            return self.context * (self.head_width // 2)
        if name in ("query_norm.weight", "key_norm.weight"):
            return self.head_width
        owner, _, last = name.rpartition(".")
        if last == "bias" and owner in LAYER_MATRICES:
            return self.matrix_size(owner)[0]
        return self.width


def slot_elements(shape: DecoderShape) -> int:
    """float16 elements of one slot's keys and values: [layers][K]{keys, values}.

    Keys are [context / 16][d][16]: one vector holds an element of 16 positions. Values are
    [context][d], d filled up to a multiple of 16. The context is rounded up to 16.
    """
    elements = shape.layers * layer_elements(shape)
    return -(-elements // _SLOT_ELEMENTS) * _SLOT_ELEMENTS


def layer_elements(shape: DecoderShape) -> int:
    """float16 elements of one layer in a slot."""
    positions = -(-shape.context // 16) * 16
    return shape.kv_heads * positions * (shape.head_width + -(-shape.head_width // 16) * 16)


def rotary_tables(
    inverse_frequencies: torch.Tensor, context: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Parts `rotary.cosine` and `rotary.sine`: float32 [context, d / 2].

    Element i of a head is turned together with element i + d / 2. Angles are rounded to float32, as
    Hugging Face's models round them.

    Args:
        inverse_frequencies: [d / 2], radians a position.
        context: Positions.
    """
    positions = torch.arange(context, dtype=torch.float32)
    angles = positions[:, None] * inverse_frequencies.float()
    return angles.cos(), angles.sin()


@dataclass(frozen=True, slots=True)
class Part:
    """Where one part stands. `format` and `planes` are of matrices."""

    offset: int
    nbytes: int
    format: int = 0
    planes: int = 1


class DecoderLayout:
    """The parts of a model, declared one by one, and the plan made of them."""

    def __init__(self, shape: DecoderShape) -> None:
        self.shape = shape
        self.parts: dict[str, Part] = {}
        self.nbytes = 0

    def matrix(self, name: str, format: int, nbytes: int, planes: int = 1) -> None:
        """Declare a packed matrix.

        Args:
            name: Such as `layers.0.query`.
            format: Number of its format (packed_linear.h, `Format`).
            nbytes: Of its packed form.
            planes: Bytes of an activation that is multiplied with it: 1, or 2 for more precision.
        """
        if part_name(name) not in (*MODEL_MATRICES, *LAYER_MATRICES):
            raise ValueError(f"the plan has no matrix {name!r}; see native_ops/decoder_plan.py")
        self._add(name, nbytes, format, planes)

    def vector(self, name: str) -> None:
        """Declare a float32 vector, such as `layers.0.attention_norm.weight`."""
        if part_name(name) not in (*MODEL_VECTORS, *LAYER_VECTORS):
            raise ValueError(f"the plan has no vector {name!r}; see native_ops/decoder_plan.py")
        self._add(name, 4 * self.shape.vector_size(part_name(name)), 0, 1)

    def tie(self, name: str, to: str, planes: int | None = None) -> None:
        """Use the bytes of the part `to` for `name` too: a head that is the embedding."""
        part = self.parts[to]
        self.parts[name] = Part(part.offset, part.nbytes, part.format, planes or part.planes)

    def _add(self, name: str, nbytes: int, format: int, planes: int) -> None:
        if name in self.parts:
            raise ValueError(f"the part {name!r} was declared twice")
        self.parts[name] = Part(self.nbytes, nbytes, format, planes)
        self.nbytes = -(-(self.nbytes + nbytes) // ALIGNMENT) * ALIGNMENT

    def plan(self, slots: int) -> torch.Tensor:
        """The int64 tensor for `decoder_step`, for a cache of `slots` slots."""
        shape = self.shape
        numbers = [
            VERSION,
            NORMALIZATIONS.index(shape.normalization),
            ACTIVATIONS.index(shape.activation),
            int(shape.gated),
            shape.width,
            shape.heads,
            shape.kv_heads,
            shape.head_width,
            shape.inner,
            shape.layers,
            shape.vocabulary,
            shape.context,
            slots,
            _float_bits(shape.epsilon),
            _float_bits(shape.scale),
            slot_elements(shape),
        ]
        numbers += self._records("", MODEL_MATRICES, MODEL_VECTORS)
        for layer in range(shape.layers):
            numbers += self._records(f"layers.{layer}.", LAYER_MATRICES, LAYER_VECTORS)
        return torch.tensor(numbers, dtype=torch.int64)

    def _records(
        self, prefix: str, matrices: tuple[str, ...], vectors: tuple[str, ...]
    ) -> list[int]:
        numbers: list[int] = []
        for name in matrices:
            part = self.parts.get(prefix + name)
            numbers += (ABSENT, 0, 1) if part is None else (part.offset, part.format, part.planes)
        for name in vectors:
            part = self.parts.get(prefix + name)
            numbers.append(ABSENT if part is None else part.offset)
        return numbers


class DecoderWeights:
    """The one tensor with every part, written in any order and read by `decoder_step`.

    Attributes:
        bytes: uint8, as many as the layout's parts take.
    """

    def __init__(self, layout: DecoderLayout) -> None:
        self._layout = layout
        self._missing = set(layout.parts)
        self.bytes = zeros_in_huge_pages(layout.nbytes)

    def write(self, name: str, values: torch.Tensor) -> None:
        """Fill a part: a matrix with its packed bytes (uint8), a vector with float32.

        A part that others are tied to fills them too.
        """
        part = self._layout.parts[name]
        flat = values.contiguous().view(-1).view(torch.uint8)
        if flat.numel() != part.nbytes:
            raise ValueError(
                f"the part {name!r} has {part.nbytes} bytes; {flat.numel()} were given"
            )
        self.bytes[part.offset : part.offset + part.nbytes].copy_(flat)
        tied = {key for key in self._missing if self._layout.parts[key].offset == part.offset}
        self._missing -= tied

    @property
    def missing(self) -> list[str]:
        """Parts that were declared and not written yet."""
        return sorted(self._missing)


def part_name(name: str) -> str:
    """`layers.3.query.bias` -> `query.bias`."""
    return name.split(".", 2)[2] if name.startswith("layers.") else name


def _float_bits(value: float) -> int:
    """The bits of a float32, as a number from 0."""
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return bits
