"""Low-rank changes of a decoder's matrices (LoRA), as the operator `decoder_step` takes them.

An adapter is one uint8 tensor with its weights and an int64 tensor that says where they stand;
csrc/decoder_adapters.cpp reads the same numbers: version, format, layers, then for each layer and
each of LAYER_MATRICES ranks (0: not changed), the bits of the scale, offset of A, offset of B.

Shapes: R ranks, K inputs, N outputs of a matrix. A is [R, K]; B, given as [N, R], stands as
[N / 16][R][16], filled up with zeros, so that the step reads it from its beginning to its end.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from native_ops.decoder_plan import ALIGNMENT, LAYER_MATRICES, DecoderShape
from native_ops.huge_pages import zeros_in_huge_pages
from native_ops.packed_linear_reference import FORMATS

VERSION = 1
"""Of the plan's numbers; csrc/decoder_adapters.h has the same."""

MOST_RANKS = 1024

_GROUP = 16
_FORMATS = {torch.float32: FORMATS["F32"], torch.bfloat16: FORMATS["BF16"]}
_HEADER, _RECORD = 3, 4
_TARGETS = len(LAYER_MATRICES)


class LowRank(NamedTuple):
    """What is added to one matrix: y += scale * (x A^T) B^T."""

    a: torch.Tensor
    """[R, K]."""
    b: torch.Tensor
    """[N, R]."""
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class PackedAdapter:
    """An adapter as `decoder_step` takes it.

    Attributes:
        weights: uint8.
        plan: int64.
    """

    weights: torch.Tensor
    plan: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Of both."""
        return self.weights.nbytes + self.plan.nbytes


def pack_adapter(
    shape: DecoderShape, changes: Mapping[str, LowRank], dtype: torch.dtype
) -> PackedAdapter:
    """Bring an adapter into the form of `decoder_step`.

    Args:
        shape: Of the model that it changes.
        changes: By the name of a matrix in the plan, such as `layers.0.query`.
        dtype: float32, or bfloat16 for half of the bytes.

    Raises:
        ValueError: a matrix that the model lacks, another shape than the matrix asks for, too many
            ranks, or a number that is not finite.
    """
    numbers = [VERSION, _FORMATS[dtype], shape.layers]
    pieces: list[torch.Tensor] = []
    held = 0
    left = dict(changes)
    for layer in range(shape.layers):
        for target in LAYER_MATRICES:
            name = f"layers.{layer}.{target}"
            change = left.pop(name, None)
            if change is None:
                numbers += (0, 0, 0, 0)
                continue
            _check(shape, name, change, dtype)
            offsets = []
            for piece in (_bytes(change.a, dtype), _bytes(_blocks(change.b), dtype)):
                offsets.append(held)
                pieces.append(piece)
                held += len(piece)
            numbers += (len(change.a), _float_bits(change.scale), *offsets)
    if left:
        raise ValueError(f"the model has no matrix {sorted(left)[0]!r}")
    weights = zeros_in_huge_pages(held)
    if pieces:
        torch.cat(pieces, out=weights)
    return PackedAdapter(weights, torch.tensor(numbers, dtype=torch.int64))


def _check(shape: DecoderShape, name: str, change: LowRank, dtype: torch.dtype) -> None:
    target = name.rpartition(".")[2]
    if target == "gate" and not shape.gated:
        raise ValueError(f"the model has no matrix {name!r}")
    outputs, inputs = shape.matrix_size(target)
    ranks = change.a.shape[0]
    if not 1 <= ranks <= MOST_RANKS:
        raise ValueError(f"{name} has rank {ranks}; it must be from 1 to {MOST_RANKS}")
    for part, tensor, wanted in (
        ("A", change.a, (ranks, inputs)),
        ("B", change.b, (outputs, ranks)),
    ):
        if tuple(tensor.shape) != wanted:
            raise ValueError(
                f"{part} of {name} has the shape {list(tensor.shape)}; the model asks for "
                f"{list(wanted)}"
            )
        if not bool(torch.isfinite(tensor.to(dtype)).all()):
            raise ValueError(f"{part} of {name} holds a number that is not finite")


def _blocks(b: torch.Tensor) -> torch.Tensor:
    """[N, R] to [N / 16, R, 16]."""
    outputs, ranks = b.shape
    filled = torch.nn.functional.pad(b, (0, 0, 0, -outputs % _GROUP))
    return filled.view(-1, _GROUP, ranks).transpose(1, 2)


def _bytes(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    flat = values.to(dtype).contiguous().view(-1).view(torch.uint8)
    return torch.nn.functional.pad(flat, (0, -len(flat) % ALIGNMENT))


def _float_bits(value: float) -> int:
    """The bits of a float32, as a number from 0."""
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return bits


class AdapterReader:
    """An adapter's parts as float32 tensors, once all that its plan says was checked.

    Raises:
        RuntimeError: a plan that breaks a rule, in the words of csrc/decoder_adapters.cpp.
    """

    def __init__(self, weights: torch.Tensor, plan: torch.Tensor, shape: DecoderShape) -> None:
        self._weights = weights
        self._shape = shape
        numbers: list[int] = plan.tolist()
        wanted = _HEADER + shape.layers * _TARGETS * _RECORD
        version = numbers[0] if numbers else 0
        if len(numbers) < _HEADER or version != VERSION:
            _refuse(f"version {VERSION}; it is {version}")
        if numbers[1] not in _FORMATS.values():
            _refuse(f"the format of float32 or bfloat16; it is {numbers[1]}")
        if numbers[2] != shape.layers or len(numbers) != wanted:
            _refuse(
                f"the model's {shape.layers} layers in {wanted} numbers; they have {numbers[2]} "
                f"in {len(numbers)}"
            )
        self._dtype = next(dtype for dtype, value in _FORMATS.items() if value == numbers[1])
        names = (f"layers.{i}.{target}" for i in range(shape.layers) for target in LAYER_MATRICES)
        records = zip(*(iter(numbers[_HEADER:]),) * _RECORD, strict=True)
        self._records = dict(zip(names, records, strict=True))
        for name, record in self._records.items():
            self._check(name, *record)

    def change(self, name: str) -> LowRank | None:
        """Of a matrix such as `layers.0.query`; None where it is not changed."""
        ranks, bits, at_a, at_b = self._records[name]
        if not ranks:
            return None
        outputs, inputs = self._shape.matrix_size(name.rpartition(".")[2])
        blocks = -(-outputs // _GROUP)
        a = self._numbers(at_a, ranks * inputs).view(ranks, inputs)
        b = self._numbers(at_b, ranks * blocks * _GROUP).view(blocks, ranks, _GROUP)
        scale: float = struct.unpack("<f", struct.pack("<I", bits))[0]
        return LowRank(a, b.transpose(1, 2).reshape(-1, ranks)[:outputs], scale)

    def _numbers(self, offset: int, count: int) -> torch.Tensor:
        size = count * self._dtype.itemsize
        return self._weights[offset : offset + size].view(self._dtype).float()

    def _check(self, name: str, ranks: int, bits: int, at_a: int, at_b: int) -> None:
        if ranks == 0:
            return
        target = name.rpartition(".")[2]
        if not 0 < ranks <= MOST_RANKS:
            _refuse(f"ranks of {target} from 0 to {MOST_RANKS}; they are {ranks}")
        if target == "gate" and not self._shape.gated:
            _refuse(f"no ranks of {target}, which the model lacks; they are {ranks}")
        if not 0 <= bits <= 0xFFFFFFFF or bits & 0x7F800000 == 0x7F800000:
            _refuse(f"a finite scale of {target}; its bits are {bits}")
        outputs, inputs = self._shape.matrix_size(target)
        size, held = ranks * self._dtype.itemsize, len(self._weights)
        for at, nbytes in ((at_a, size * inputs), (at_b, size * -(-outputs // _GROUP) * _GROUP)):
            if at < 0 or at % ALIGNMENT or at + nbytes > held:
                _refuse(
                    f"{target} inside the adapter's {held} bytes, at multiples of 64; it is at "
                    f"{at_a} and {at_b}"
                )


def _refuse(rule: str) -> None:
    raise RuntimeError(f"ironcliw::decoder_step: adapter_plans must have {rule}")
