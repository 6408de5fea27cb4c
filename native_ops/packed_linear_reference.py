"""Packed weights in plain torch: into the packed form, back to floats, and products with them.

The layout is that of csrc/packing.cpp: groups of 16 rows, blocks of 32 columns, 4 columns of each
row side by side in a line of 64 bytes. N rows of weights (outputs), K columns (inputs), M rows of
activations, B = K / 32 blocks, S = K / 256 super-blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from native_ops.checks import check_tensor, need
from native_ops.gguf_types import BLOCK_TYPES, TYPE_NUMBERS

INT8 = 1000
"""Our own: a row is its float32 scale and then K numbers of int8."""

FORMATS = {
    **{kind: TYPE_NUMBERS[kind] for kind in ("F32", "F16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K")},
    "BF16": 30,
    "INT8": INT8,
}
"""Formats of weights by name: ggml's numbers, and INT8."""

_FLOATS = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
_GROUP = 16
_MOST = 1 << 28


class _Layout(NamedTuple):
    """How a group of 16 rows is made up.

    Attributes:
        lines: Of 64 bytes in a block.
        beside: Bytes behind a block's lines.
        supers: Bytes in front of each 256 columns.
        front: Bytes in front of the group.
    """

    lines: int
    beside: int = 0
    supers: int = 0
    front: int = 0


_LAYOUTS = {
    FORMATS["Q4_0"]: _Layout(4, 32),
    FORMATS["Q4_1"]: _Layout(4, 64),
    FORMATS["Q8_0"]: _Layout(8, 32),
    FORMATS["Q4_K"]: _Layout(4, 32, 64),
    FORMATS["Q6_K"]: _Layout(6, 32, 32),
    INT8: _Layout(8, front=64),
}


def columns_multiple(format: int) -> int:
    """K must be a multiple of this."""
    return 32 if format == INT8 else BLOCK_TYPES[format].elements


def source_bytes(format: int, rows: int, columns: int) -> int:
    """Bytes of `rows` rows as a GGUF file has them; INT8: scales and numbers."""
    if format == INT8:
        return rows * (columns + 4)
    return rows * (columns // BLOCK_TYPES[format].elements) * BLOCK_TYPES[format].nbytes


def packed_bytes(format: int, rows: int, columns: int) -> int:
    """Bytes of the packed form, whose rows are filled up to a multiple of 16."""
    groups = -(-rows // _GROUP)
    if format in _FLOATS:
        return groups * _GROUP * columns * _FLOATS[format].itemsize
    lines, beside, supers, front = _LAYOUTS[format]
    return groups * (front + columns // 32 * (64 * lines + beside) + columns // 256 * supers)


def pack_weight_reference(
    source: torch.Tensor, format: int, rows: int, columns: int
) -> torch.Tensor:
    """As `pack_weight`."""
    check_format("pack_weight", format, rows, columns)
    nbytes = source_bytes(format, rows, columns)
    check_tensor("pack_weight", "source", source, torch.uint8, (nbytes,))
    filled = -rows % _GROUP
    bytes_of_row = source_bytes(format, 1, columns)
    grouped = _unflatten(F.pad(source.reshape(rows, bytes_of_row), (0, 0, 0, filled)), 0, (-1, 16))
    if format in _FLOATS:
        values = _unflatten(grouped, 2, (columns, _FLOATS[format].itemsize))
        return values.transpose(1, 2).flatten()
    if format == INT8:
        lines = _to_lines(_unflatten(grouped[..., 4:], 2, (-1, 32)))
        return torch.cat((grouped[..., :4].flatten(1), lines.flatten(1)), 1).flatten()
    blocks = _unflatten(grouped, 2, (-1, BLOCK_TYPES[format].nbytes))
    return _PACKERS[format](blocks).flatten()


def unpack_weight(packed: torch.Tensor, format: int, rows: int, columns: int) -> torch.Tensor:
    """The numbers of a packed matrix: uint8 (what lies behind it is ignored) to float32 [N, K]."""
    data = _unflatten(packed[: packed_bytes(format, rows, columns)], 0, (-(-rows // _GROUP), -1))
    if format in _FLOATS:
        values = _unflatten(data.view(_FLOATS[format]), 1, (columns, _GROUP)).transpose(1, 2)
        return values.flatten(0, 1)[:rows].float()
    layout = _LAYOUTS[format]
    supers, blocks = _split(data[:, layout.front :], layout)
    u = _from_lines(blocks[..., : 64 * layout.lines])  # [groups, 16, B, 4 * lines]
    beside = blocks[..., 64 * layout.lines :]
    if format == INT8:
        values = u.view(torch.int8) * data[:, :64].contiguous().view(torch.float32)[..., None, None]
    else:
        values = _UNPACKERS[format](u, beside, supers)
    return values.flatten(2).flatten(0, 1)[:rows]


def packed_linear_reference(
    x: torch.Tensor, packed: torch.Tensor, format: int, outputs: int, planes: int
) -> torch.Tensor:
    """As `packed_linear`, with activations that are not quantised."""
    operator = "packed_linear"
    check_tensor(operator, "x", x, torch.float32, (None, None))
    check_format(operator, format, outputs, x.shape[1])
    rule = f"x must have fewer than 2^28 rows; its shape is {[*x.shape]}"
    need(len(x) < _MOST, operator, rule)
    need(planes in (1, 2), operator, f"planes must be 1 or 2; it is {planes}")
    nbytes = packed_bytes(format, outputs, x.shape[1])
    check_tensor(operator, "packed", packed, torch.uint8, (nbytes,))
    packed = packed.contiguous()
    aligned = packed.data_ptr() % 4 == 0
    need(aligned, operator, "packed must start at a multiple of 4 bytes")
    out = F.linear(x, unpack_weight(packed, format, outputs, x.shape[1]))
    if format in _FLOATS:
        return out
    return out.masked_fill(~x.isfinite().all(1, keepdim=True), torch.nan)


def check_format(op: str, format: int, rows: int, columns: int) -> None:
    """RuntimeError where the format is unknown or the sizes do not fit it."""
    need(format in FORMATS.values(), op, f"format must be one of FORMATS; it is {format}")
    need(0 <= rows < _MOST, op, f"rows must be 0 to 2^28; it is {rows}")
    need(0 <= columns < _MOST, op, f"columns must be 0 to 2^28; it is {columns}")
    unit = columns_multiple(format)
    rule = f"columns must be a multiple of {unit} for format {format}; it is {columns}"
    need(columns % unit == 0, op, rule)


def _unflatten(t: torch.Tensor, dim: int, sizes: tuple[int, ...]) -> torch.Tensor:
    """`Tensor.unflatten`, which has no types."""
    result: torch.Tensor = t.unflatten(dim, sizes)  # type: ignore[no-untyped-call]
    return result


def _to_lines(values: torch.Tensor) -> torch.Tensor:
    """Bytes [groups, 16, B, 4 * lines] to [groups, B, 64 * lines]."""
    return _unflatten(values, 3, (-1, 4)).permute(0, 2, 3, 1, 4).flatten(2)


def _from_lines(lines: torch.Tensor) -> torch.Tensor:
    return _unflatten(lines, 2, (-1, _GROUP, 4)).permute(0, 3, 1, 2, 4).flatten(3)


def _beside(values: torch.Tensor) -> torch.Tensor:
    """Bytes [groups, 16, B, n] of each row to [groups, B, 16 * n]."""
    return values.transpose(1, 2).flatten(2)


def _split(data: torch.Tensor, layout: _Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """What is in front of 256 columns, [groups, K / 256, n], and blocks, [groups, B, n]."""
    size = 64 * layout.lines + layout.beside
    if not layout.supers:
        return data, _unflatten(data, 1, (-1, size))
    supers = _unflatten(data, 1, (-1, layout.supers + 8 * size))
    blocks = _unflatten(supers[..., layout.supers :], 2, (8, size)).flatten(1, 2)
    return supers[..., : layout.supers], blocks


def _halves(beside: torch.Tensor, index: int) -> torch.Tensor:
    """The index-th 16 halves of each block: [groups, 16, B, 1] float32."""
    part = beside[..., 32 * index : 32 * index + 32].contiguous().view(torch.float16)
    return part.transpose(1, 2)[..., None].float()


def _ints(beside: torch.Tensor, index: int) -> torch.Tensor:
    """The index-th 16 int8 of each block: [groups, 16, B, 1] float32."""
    part = beside[..., 16 * index : 16 * index + 16].contiguous().view(torch.int8)
    return part.transpose(1, 2)[..., None].float()


def _nibbles(u: torch.Tensor) -> torch.Tensor:
    return torch.cat((u & 15, u >> 4), -1)


def _pack_halves(blocks: torch.Tensor, count: int) -> torch.Tensor:
    """Q4_0, Q4_1 and Q8_0: `count` halves and then numbers as they are."""
    halves = [_beside(blocks[..., 2 * i : 2 * i + 2]) for i in range(count)]
    return torch.cat((_to_lines(blocks[..., 2 * count :]), *halves), 2)


def _pack_supers(front: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """[groups, S, n] and [groups, 8 S, m] to [groups, S, n + 8 m]."""
    return torch.cat((front, _unflatten(blocks, 1, (-1, 8)).flatten(2)), 2)


def _pack_nibbles(values: torch.Tensor) -> torch.Tensor:
    """Numbers below 16, [groups, 16, B, 32], to lines."""
    return _to_lines(values[..., :16] | values[..., 16:] << 4)


def _pack_q4_k(supers: torch.Tensor) -> torch.Tensor:
    low, middle, high = _unflatten(supers[..., 4:16], 3, (3, 4)).unbind(3)
    scales = torch.cat((low & 63, high & 15 | low >> 2 & 48), 3).flatten(2)[..., None]
    offsets = torch.cat((middle & 63, high >> 4 | middle >> 2 & 48), 3).flatten(2)[..., None]
    pairs = _unflatten(supers[..., 16:], 3, (4, 32))
    values = torch.stack((pairs & 15, pairs >> 4), 4).flatten(2, 4)
    blocks = torch.cat((_pack_nibbles(values), _beside(scales), _beside(offsets)), 2)
    front = torch.cat((_beside(supers[..., :2]), _beside(supers[..., 2:4])), 2)
    return _pack_supers(front, blocks)


def _pack_q6_k(supers: torch.Tensor) -> torch.Tensor:
    low = _unflatten(supers[..., :128], 3, (2, 64))
    low = _unflatten(torch.cat((low & 15, low >> 4), 4), 4, (4, 32)).flatten(2, 4)
    high = _unflatten(supers[..., 128:192], 3, (2, 32))
    high = torch.stack([high >> 2 * i & 3 for i in range(4)], 4).flatten(2, 4)
    lines = _unflatten(high, 3, (2, 4, 4))  # a line of pairs holds those of four lines
    pairs = sum(lines[..., i, :] << 2 * i for i in range(1, 4)) + lines[..., 0, :]
    scales = _unflatten(supers[..., 192:208], 3, (8, 2)).flatten(2, 3)
    columns = [_pack_nibbles(low), _to_lines(pairs.flatten(3))]
    columns += [_beside(scales[..., i : i + 1]) for i in (0, 1)]
    return _pack_supers(_beside(supers[..., 208:]), torch.cat(columns, 2))


def _unpack_q4_k(u: torch.Tensor, beside: torch.Tensor, supers: torch.Tensor) -> torch.Tensor:
    scale = _halves(supers, 0).repeat_interleave(8, 2) * _ints(beside, 0)
    offset = _halves(supers, 1).repeat_interleave(8, 2) * _ints(beside, 1)
    return scale * _nibbles(u) - offset


def _unpack_q6_k(u: torch.Tensor, beside: torch.Tensor, supers: torch.Tensor) -> torch.Tensor:
    high = _unflatten(u[..., 16:], 3, (2, 1, 4))
    pairs = torch.cat([high >> 2 * i & 3 for i in range(4)], 4).flatten(3)
    values = (_nibbles(u[..., :16]) | pairs << 4).float() - 32
    scales = torch.cat((_ints(beside, 0), _ints(beside, 1)), 3).repeat_interleave(16, 3)
    return _halves(supers, 0).repeat_interleave(8, 2) * scales * values


_PACKERS: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    FORMATS["Q4_0"]: lambda blocks: _pack_halves(blocks, 1),
    FORMATS["Q4_1"]: lambda blocks: _pack_halves(blocks, 2),
    FORMATS["Q8_0"]: lambda blocks: _pack_halves(blocks, 1),
    FORMATS["Q4_K"]: _pack_q4_k,
    FORMATS["Q6_K"]: _pack_q6_k,
}

_UNPACKERS: dict[int, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    FORMATS["Q4_0"]: lambda u, beside, _: (_nibbles(u).float() - 8) * _halves(beside, 0),
    FORMATS["Q4_1"]: lambda u, beside, _: _nibbles(u) * _halves(beside, 0) + _halves(beside, 1),
    FORMATS["Q8_0"]: lambda u, beside, _: u.view(torch.int8) * _halves(beside, 0),
    FORMATS["Q4_K"]: _unpack_q4_k,
    FORMATS["Q6_K"]: _unpack_q6_k,
}
