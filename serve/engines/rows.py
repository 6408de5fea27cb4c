"""Lay texts of many lengths into rows of few widths: next to no padding, and little masked.

Matrix products do not care where a text ends, so the tokens of a batch stand end to end. Attention
does: it runs over rows of one width S, and a row may hold several texts, kept apart by a mask. Rows
of 32 are the fastest that PyTorch's CPU attention has (measured: 1.5 us a token and layer, against
3.8 to 5.7 for one text of 12 or 20 tokens a row), hence short texts share rows of 32, and longer
texts get a row each, whose rest short ones fill.

Pure: no torch, no clock. R rows, S width, T tokens of a block, B texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROW = 32
"""Width of a row of short texts, and the step between the widths of longer ones."""

MAX_WASTE = 1 / 8
"""Rows with a larger empty share are made narrower instead."""

Index = npt.NDArray[np.int64]


def shape_size(tokens: int) -> int:
    """The number of rows that a matrix product of so many tokens is given.

    oneDNN compiles a kernel for each new number of rows, in about a millisecond, and keeps it: with
    as many sizes as there are batches, compiling took most of the time and the process grew by
    several hundred megabytes. Steps of 16 are free where the hardware multiplies tiles of 16 rows.
    """
    step = 16 if tokens <= 128 else 32 if tokens <= 512 else 128
    return -(-tokens // step) * step


@dataclass(frozen=True, slots=True)
class RowGroup:
    """R rows of width S that attention computes in one call.

    Attributes:
        rows: R.
        width: S.
        segments: int64 [R, S], equal where two tokens of a row belong together; None when each
            row is one whole text.
    """

    rows: int
    width: int
    segments: Index | None


@dataclass(frozen=True, slots=True)
class Block:
    """Some texts of a batch, laid out: what one pass through the network computes.

    Attributes:
        groups: Rows by width, in the order of the tokens.
        source: int64 [T], where in the batch each token stands (0 at empty places).
        positions: int64 [T], each token's place in its text (0 at empty places).
        texts: int64 [B], indices of the texts in the batch.
        starts: int64 [B], where each of them begins in the block.
        lengths: int64 [B], its tokens.
    """

    groups: tuple[RowGroup, ...]
    source: Index
    positions: Index
    texts: Index
    starts: Index
    lengths: Index


@dataclass(slots=True)
class _Row:
    width: int
    texts: list[int]


def plan_blocks(lengths: Sequence[int], max_tokens: int) -> list[Block]:
    """Lay out a batch.

    Args:
        lengths: Tokens of each text, all positive.
        max_tokens: Size of a block; a longer text is a block of its own.
    """
    rows = sorted(_fill_rows(lengths), key=lambda row: -row.width)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    blocks: list[Block] = []
    start = tokens = 0
    for end, row in enumerate(rows):
        if tokens and tokens + row.width > max_tokens:
            blocks.append(_block(rows[start:end], lengths, offsets))
            start, tokens = end, 0
        tokens += row.width
    blocks.append(_block(rows[start:], lengths, offsets))
    return blocks


def _fill_rows(lengths: Sequence[int]) -> list[_Row]:
    """Best fit decreasing: the longest text left opens a row, the longest that fits follows."""
    waiting: dict[int, list[int]] = {}
    for text, length in enumerate(lengths):
        waiting.setdefault(length, []).append(text)
    # bit n is set while a text of n tokens waits: the longest that fits is then one bit_length()
    present = sum(1 << length for length in waiting)
    rows: list[_Row] = []
    while present:
        longest = present.bit_length() - 1
        width = -(-longest // ROW) * ROW
        row, room = _Row(width, []), width
        while fitting := present & ((2 << room) - 1):
            length = fitting.bit_length() - 1
            texts = waiting[length]
            row.texts.append(texts.pop())
            if not texts:
                present ^= 1 << length
            room -= length
        if room > width * MAX_WASTE:
            row.width = width - room
        rows.append(row)
    return rows


def _block(rows: Sequence[_Row], lengths: Sequence[int], offsets: Index) -> Block:
    texts: list[int] = []
    sizes: list[int] = []
    for row in rows:
        texts.extend(row.texts)
        inside = [lengths[text] for text in row.texts]
        sizes.extend(inside)
        if empty := row.width - sum(inside):
            texts.append(-1)
            sizes.append(empty)
    piece, size = np.array(texts), np.array(sizes)
    starts = np.cumsum(size) - size
    place = np.repeat(np.arange(len(piece)), size)
    real = piece >= 0
    # empty places read token 0 at position 0, which exist in every batch and model
    positions = (np.arange(len(place)) - starts[place]) * real[place]
    source = np.where(real, offsets[piece], 0)[place] + positions
    return Block(
        groups=_groups(rows, place),
        source=source,
        positions=positions,
        texts=piece[real],
        starts=starts[real],
        lengths=size[real],
    )


def _groups(rows: Sequence[_Row], place: Index) -> tuple[RowGroup, ...]:
    groups: list[RowGroup] = []
    first = token = 0
    for end in range(1, len(rows) + 1):
        if end < len(rows) and rows[end].width == rows[first].width:
            continue
        width, count = rows[first].width, end - first
        inside = place[token : token + count * width].reshape(count, width)
        whole = bool((inside[:, 0] == inside[:, -1]).all())
        groups.append(RowGroup(count, width, None if whole else inside))
        first, token = end, token + count * width
    return tuple(groups)
