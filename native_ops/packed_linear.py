"""Products with weights kept as they are in the file: 4, 6 or 8 bits a number, or floats.

M rows of activations, N rows of weights (outputs), K columns (inputs).
"""

from __future__ import annotations

import torch

from native_ops.operators import define
from native_ops.packed_linear_reference import (
    FORMATS,
    INT8,
    columns_multiple,
    pack_weight_reference,
    packed_bytes,
    packed_linear_reference,
    source_bytes,
    unpack_weight,
)

__all__ = [
    "FORMATS",
    "INT8",
    "columns_multiple",
    "pack_weight",
    "packed_bytes",
    "packed_linear",
    "quantize_rows_int8",
    "quantize_rows_q4",
    "source_bytes",
    "unpack_weight",
]

pack_weight = define(
    "pack_weight",
    "(Tensor source, int format, int rows, int columns) -> Tensor",
    pack_weight_reference,
    lambda source, format, rows, columns: source.new_empty(packed_bytes(format, rows, columns)),
)
"""Bytes of N rows as a GGUF file has them, uint8 [`source_bytes`], to uint8 [`packed_bytes`].

Rows may be packed piece by piece: a piece that starts at a multiple of 16 rows packs to the bytes
from `packed_bytes(format, start, columns)` on.
"""

packed_linear = define(
    "packed_linear",
    "(Tensor x, Tensor packed, int format, int outputs, int planes) -> Tensor",
    packed_linear_reference,
    lambda x, packed, format, outputs, planes: x.new_empty(x.shape[0], outputs),
)
"""x float32 [M, K] with a packed matrix [N, K], to float32 [M, N].

Activations are rounded for each 32 columns: the error of one of them is at most 1/254 of the
largest of the 32 with one plane; with two 1/4064 where weights have 4 bits (Q4_0, Q4_1, Q4_K), and
1/64516 else. Matrices of floats take them as they are. A row's bits depend on nothing but that row.
"""


def quantize_rows_int8(weight: torch.Tensor) -> torch.Tensor:
    """Any weight, float [N, K], as what `pack_weight` takes for INT8: uint8 [N * (K + 4)].

    Args:
        weight: Finite numbers; a row is rounded to 255 steps between plus and minus its largest.
    """
    rows = weight.float()
    scale = rows.abs().amax(1) / 127 if rows.shape[1] else rows.new_zeros(len(rows))
    numbers = (rows / scale.where(scale > 0, 1)[:, None]).round().clamp(-127, 127).to(torch.int8)
    parts = (scale.view(torch.uint8).view(-1, 4), numbers.view(torch.uint8))
    return torch.cat(parts, 1).flatten()


def quantize_rows_q4(weight: torch.Tensor) -> torch.Tensor:
    """Any weight, float [N, K], as blocks of Q4_1: uint8 [N * K / 32 * 20].

    Each block of 32 has 16 levels from its least to its largest number, both rounded to half
    precision before the numbers are, so that rounding the scale adds no error.
    """
    blocks = weight.float().reshape(len(weight), -1, 32)
    least = blocks.amin(2, keepdim=True).half()
    scale = ((blocks.amax(2, keepdim=True) - least.float()) / 15).half()
    steps = (blocks - least.float()) / scale.float().where(scale > 0, 1)
    numbers = steps.round().clamp(0, 15).to(torch.uint8)
    nibbles = numbers[..., :16] | numbers[..., 16:] << 4
    halves = (part.view(torch.uint8) for part in (scale, least))
    return torch.cat((*halves, nibbles), 2).flatten()
