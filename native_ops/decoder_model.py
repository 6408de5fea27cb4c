"""A plan's parts as float32 tensors, once all that the plan says was checked.

The same rules, in the same words, as csrc/decoder_plan.cpp: nothing that a plan says is trusted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.nn.functional as F

from native_ops.checks import need
from native_ops.decoder_plan import (
    ABSENT,
    ACTIVATIONS,
    ALIGNMENT,
    LAYER_MATRICES,
    LAYER_VECTORS,
    MODEL_MATRICES,
    MODEL_VECTORS,
    NORMALIZATIONS,
    VERSION,
    DecoderShape,
    layer_elements,
    part_name,
)
from native_ops.packed_linear_reference import (
    FORMATS,
    columns_multiple,
    packed_bytes,
    unpack_weight,
)

_HEADER = (
    ("the normalization", 0, 1),
    ("the activation", 0, 3),
    ("gated", 0, 1),
    ("the width", 1, 1 << 20),
    ("the heads", 1, 1 << 12),
    ("the key and value heads", 1, None),
    ("the width of a head", 1, 256),
    ("the inner width", 1, 1 << 22),
    ("the layers", 1, 1 << 12),
    ("the vocabulary", 1, 1 << 24),
    ("the context", 1, 1 << 24),
    ("the slots", 1, 1 << 20),
)
"""What follows the version, and its bounds, far above those of every model; None: as before it."""
_NEEDED = ("query", "key", "value", "output", "up", "down")


def refuse(rule: str) -> NoReturn:
    """Raise the operator's RuntimeError."""
    raise RuntimeError(f"ironcliw::decoder_step: {rule}")


@dataclass(frozen=True, slots=True)
class _Matrix:
    offset: int
    format: int


class _Reader:
    """Takes number after number of a plan."""

    def __init__(self, plan: torch.Tensor) -> None:
        self._numbers: list[int] = plan.tolist()
        self._at = 0

    def next(self) -> int:
        if self._at >= len(self._numbers):
            refuse(f"plan must have more than its {len(self._numbers)} numbers")
        self._at += 1
        return self._numbers[self._at - 1]

    def bounded(self, name: str, least: int, most: int) -> int:
        value = self.next()
        if not least <= value <= most:
            refuse(f"plan must have {name} from {least} to {most}; it is {value}")
        return value

    def real(self, name: str) -> float:
        bits = self.bounded(name, 0, 0xFFFFFFFF)
        value: float = struct.unpack("<f", struct.pack("<I", bits))[0]
        if not 0 <= value < 1e30:
            refuse(f"plan must have a finite {name} that is not negative; it is {value}")
        return value

    def finish(self) -> None:
        if self._at != len(self._numbers):
            refuse(f"plan must have {self._at} numbers; it has {len(self._numbers)}")


class DecoderModel:
    """The parts that a plan names.

    Attributes:
        shape: Of the model.
        slots: That the cache has.
        slot_elements: Of one slot in the cache.

    Raises:
        RuntimeError: a plan that breaks a rule, or does not fit the weights or the cache.
    """

    def __init__(self, weights: torch.Tensor, plan: torch.Tensor, cache_elements: int) -> None:
        need(
            weights.data_ptr() % 4 == 0,
            "decoder_step",
            "weights must start at a multiple of 4 bytes",
        )
        self._weights = weights
        reader = _Reader(plan)
        self._read_header(reader)
        self._check_cache(cache_elements)
        self._matrices: dict[str, _Matrix] = {}
        self._vectors: dict[str, int] = {}
        self._read_parts(reader, "", MODEL_MATRICES, MODEL_VECTORS)
        self._check_model()
        for layer in range(self.shape.layers):
            self._read_parts(reader, f"layers.{layer}.", LAYER_MATRICES, LAYER_VECTORS)
            self._check_layer(f"layers.{layer}.")
        reader.finish()

    def has(self, name: str) -> bool:
        """Whether a matrix or vector is there."""
        matrix = self._matrices.get(name)
        return (matrix.offset if matrix else self._vectors[name]) != ABSENT

    def matrix(self, name: str) -> torch.Tensor:
        """float32 [outputs, inputs]."""
        part = self._matrices[name]
        rows, columns = self.shape.matrix_size(part_name(name))
        return unpack_weight(self._weights[part.offset :], part.format, rows, columns)

    def vector(self, name: str) -> torch.Tensor | None:
        """float32, or None where the plan has none."""
        offset = self._vectors[name]
        if offset == ABSENT:
            return None
        size = 4 * self.shape.vector_size(part_name(name))
        return self._weights[offset : offset + size].view(torch.float32)

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """A product with its bias."""
        return F.linear(x, self.matrix(name), self.vector(f"{name}.bias"))

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """The model's kind of norm over rows."""
        weight = self.vector(f"{name}.weight")
        epsilon = self.shape.epsilon
        if self.shape.normalization == "rms":
            return F.rms_norm(x, (x.shape[1],), weight, epsilon)
        return F.layer_norm(x, (x.shape[1],), weight, self.vector(f"{name}.bias"), epsilon)

    def _read_header(self, reader: _Reader) -> None:
        version = reader.next()
        if version != VERSION:
            refuse(f"plan must have version {VERSION}; it is {version}")
        numbers: list[int] = []
        for name, least, most in _HEADER:
            numbers.append(reader.bounded(name, least, numbers[-1] if most is None else most))
        norm, activation, gated, width, heads, kv_heads, head_width, *rest, self.slots = numbers
        inner, layers, vocabulary, context = rest
        epsilon, scale = reader.real("epsilon"), reader.real("factor of scores")
        self.slot_elements = reader.next()
        if heads % kv_heads:
            refuse(
                "plan must have heads that are a multiple of the key and value heads; "
                f"they are {heads} and {kv_heads}"
            )
        self.shape = DecoderShape(
            width=width,
            heads=heads,
            kv_heads=kv_heads,
            head_width=head_width,
            inner=inner,
            layers=layers,
            vocabulary=vocabulary,
            context=context,
            epsilon=epsilon,
            normalization=NORMALIZATIONS[norm],
            activation=ACTIVATIONS[activation],
            gated=bool(gated),
            score_scale=scale,
        )

    def _check_cache(self, cache_elements: int) -> None:
        least, total = (
            self.shape.layers * layer_elements(self.shape),
            self.slots * self.slot_elements,
        )
        if self.slot_elements < least or total >= 1 << 63:
            given = self.slot_elements
            refuse(f"plan must have slots of {least} elements or more; it has {given}")
        if total > cache_elements:
            refuse(
                f"cache must have {total} elements or more for {self.slots} slots; "
                f"it has {cache_elements}"
            )

    def _read_parts(
        self, reader: _Reader, prefix: str, matrices: tuple[str, ...], vectors: tuple[str, ...]
    ) -> None:
        for name in matrices:
            offset, format, planes = reader.next(), reader.next(), reader.next()
            self._matrices[prefix + name] = _Matrix(offset, format)
            if offset != ABSENT:
                self._check_matrix(name, offset, format, planes)
        for name in vectors:
            offset = self._vectors[prefix + name] = reader.next()
            if offset != ABSENT:
                self._check_place(name, offset, 4 * self.shape.vector_size(name))

    def _check_matrix(self, name: str, offset: int, format: int, planes: int) -> None:
        if format not in FORMATS.values():
            refuse(f"plan must have a known format for {name}; it is {format}")
        if planes not in (1, 2):
            refuse(f"plan must have 1 or 2 planes for {name}; it is {planes}")
        rows, columns = self.shape.matrix_size(name)
        unit = columns_multiple(format)
        if columns % unit:
            rule = f"its format in the plan must have a multiple of {unit}"
            refuse(f"{name} has {columns} columns; {rule}")
        self._check_place(name, offset, packed_bytes(format, rows, columns))

    def _check_place(self, name: str, offset: int, nbytes: int) -> None:
        if offset < 0 or offset % ALIGNMENT:
            rule = f"plan must have the offset of {name} a multiple of {ALIGNMENT} from 0"
            refuse(f"{rule}; it is {offset}")
        held = len(self._weights)
        if offset + nbytes > held:
            rule = f"plan must have {name} inside the weights of {held} bytes"
            refuse(f"{rule}; it has {nbytes} bytes at {offset}")

    def _check_norm(self, prefix: str, name: str) -> None:
        layer_norm = self.shape.normalization == "layer"
        for vector in ("weight", *(["bias"] if layer_norm else [])):
            if not self.has(f"{prefix}{name}.{vector}"):
                refuse(f"plan must have {name}; its offset is -1")

    def _check_model(self) -> None:
        self._check_norm("", "norm")
        for name in ("embedding", "head"):
            if not self.has(name):
                refuse(f"plan must have {name}; its offset is -1")
        tables = [self.has(f"rotary.{name}") for name in ("cosine", "sine")]
        if any(tables) and not all(tables):
            refuse("plan must have both rotary.cosine and rotary.sine, or neither")
        if any(tables) and self.shape.head_width % 2:
            refuse(
                "plan must have an even width of a head with rotary tables; "
                f"it is {self.shape.head_width}"
            )

    def _check_layer(self, prefix: str) -> None:
        for name in ("attention_norm", "mlp_norm"):
            self._check_norm(prefix, name)
        if not all(self.has(prefix + name) for name in _NEEDED):
            refuse(
                "plan must have query, key, value, output, up and down in every layer; "
                "its offset is -1"
            )
        if self.shape.gated and not self.has(f"{prefix}gate"):
            refuse("plan must have gate in every layer of a gated model; its offset is -1")
