"""The layout of a batch: every token in one place, no text cut, little left empty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serve.engines.rows import MAX_WASTE, ROW, Index, RowGroup, plan_blocks

lengths_strategy = st.lists(st.integers(1, 300), min_size=1, max_size=80)


@given(lengths_strategy, st.integers(1, 600))
def test_every_text_stands_whole_in_one_row(lengths: list[int], budget: int) -> None:
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    seen: list[int] = []
    for block in plan_blocks(lengths, budget):
        widths = [g.width for g in block.groups for _ in range(g.rows)]
        row_starts = np.cumsum([0, *widths])
        assert row_starts[-1] == len(block.source) == len(block.positions)
        segments = _segments(block.groups)
        for text, start, length in zip(block.texts, block.starts, block.lengths, strict=True):
            seen.append(int(text))
            assert length == lengths[text]
            place = slice(start, start + length)
            assert np.array_equal(block.source[place], offsets[text] + np.arange(length))
            assert np.array_equal(block.positions[place], np.arange(length))
            row = int(np.searchsorted(row_starts, start, side="right")) - 1
            assert start + length <= row_starts[row + 1]
            inside = segments[row_starts[row] : row_starts[row + 1]]
            assert np.flatnonzero(inside == segments[start]).tolist() == list(
                range(start - row_starts[row], start - row_starts[row] + length)
            )
    assert sorted(seen) == list(range(len(lengths)))


def _segments(groups: Sequence[RowGroup]) -> Index:
    """One label a token; a group without segments has one text a row."""
    labels, base = [], 0
    for group in groups:
        inside = group.segments
        if inside is None:
            inside = np.repeat(np.arange(group.rows), group.width).reshape(group.rows, -1)
        labels.append((inside + base).ravel())
        base = labels[-1].max() + 1
    return np.concatenate(labels)


@given(lengths_strategy, st.integers(1, 600))
def test_blocks_keep_to_the_budget_and_rows_are_full(lengths: list[int], budget: int) -> None:
    for block in plan_blocks(lengths, budget):
        tokens = len(block.source)
        widest = block.groups[0].width
        assert tokens <= max(budget, widest)
        for group in block.groups:
            assert group.width <= -(-max(lengths) // ROW) * ROW
        assert tokens - int(block.lengths.sum()) <= tokens * MAX_WASTE


@given(lengths_strategy)
def test_indices_stay_inside_the_batch(lengths: list[int]) -> None:
    for block in plan_blocks(lengths, 256):
        assert block.source.min() >= 0
        assert block.source.max() < sum(lengths)
        assert block.positions.max() < max(lengths)


def test_short_texts_share_rows() -> None:
    (block,) = plan_blocks([8] * 40, 4096)
    (group,) = block.groups
    assert (group.rows, group.width) == (10, 32)
    assert group.segments is not None


def test_equal_long_texts_need_no_mask() -> None:
    (block,) = plan_blocks([50] * 4, 4096)
    assert [(g.rows, g.width, g.segments) for g in block.groups] == [(4, 50, None)]
