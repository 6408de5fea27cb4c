"""Tokenised rows: what counts for the digest, and rows of two kinds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcliw.errors import DataError
from tests.unit.train.data.token_rows import rows_of, token_row
from train.data.masks import TokenRow
from train.data.tokenized import TokenizedData


@pytest.fixture
def data() -> TokenizedData:
    rows = [token_row(3, 1), token_row(5, 4, 10), token_row(2, 1, 20)]
    return TokenizedData.of_rows(rows, [(0, 1), (1, 7), (1, 9)], ["a.jsonl", "b.csv"])


def test_rows(data: TokenizedData) -> None:
    assert len(data) == 3
    assert data.row(1).tokens.tolist() == [10, 11, 12, 13, 14]
    assert data.row(1).supervised.tolist() == [False, True, True, True, True]
    assert (data.lengths.tolist(), data.supervised_counts.tolist()) == ([3, 5, 2], [1, 4, 1])
    assert [data.supervised_count(i) for i in range(3)] == [1, 4, 1]
    assert [data.source(i) for i in range(3)] == ["a.jsonl:1", "b.csv:7", "b.csv:9"]
    kinds = [str(getattr(data, name).dtype) for name in ("tokens", "supervised", "offsets")]
    assert kinds == ["int32", "bool", "int64"]
    assert [str(data.files.dtype), str(data.lines.dtype)] == ["int32", "int64"]


def test_the_digest_never_changes(data: TokenizedData) -> None:
    # a release that computes another one could not resume the runs of this one
    assert data.digest == "9689c808052fbf2316cb734700d2542ddc2e61b6a32c40805cd0a31f90f6a261"
    assert rows_of([]).digest != rows_of([2]).digest


def test_what_counts_for_the_digest(data: TokenizedData) -> None:
    rows = [data.row(i) for i in range(3)]
    places = [(0, 1), (1, 7), (1, 9)]
    assert TokenizedData.of_rows(rows, [(0, 4)] * 3, ["c"]).digest == data.digest
    swapped = TokenizedData.of_rows([rows[1], rows[0], rows[2]], places, ["a", "b"])
    shorter = TokenizedData.of_rows([token_row(3, 2), *rows[1:]], places, ["a", "b"])
    other = TokenizedData.of_rows([token_row(3, 1, 1), *rows[1:]], places, ["a", "b"])
    # the same tokens and masks with other borders
    joined = TokenizedData(
        data.tokens, data.supervised, np.array([0, 4, 8, 10]), data.files, data.lines, data.names
    )
    digests = {one.digest for one in (data, swapped, shorter, other, joined)}
    assert len(digests) == 5


def pair(*tokens: int, borders: tuple[int, int]) -> TokenRow:
    supervised = np.arange(len(tokens)) >= borders[0]
    return TokenRow(np.array(tokens, np.int32), supervised, borders)


def test_preferences_keep_their_borders() -> None:
    rows = [pair(1, 2, 3, 4, 5, borders=(2, 3)), pair(1, 2, 3, borders=(1, 2))]
    data = TokenizedData.of_rows(rows, [(0, 1), (0, 2)], ["a"])
    assert data.are_pairs and not rows_of([3]).are_pairs
    assert [data.row(i).borders for i in range(2)] == [(2, 3), (1, 2)]
    moved = [pair(1, 2, 3, 4, 5, borders=(2, 4)), rows[1]]
    assert TokenizedData.of_rows(moved, [(0, 1), (0, 2)], ["a"]).digest != data.digest


def test_rows_of_two_kinds_are_refused() -> None:
    rows = [pair(1, 2, 3, borders=(1, 2)), token_row(3, 1)]
    with pytest.raises(DataError, match=r"1 of 2 rows are preferences .* rows of one kind"):
        TokenizedData.of_rows(rows, [(0, 1), (0, 2)], ["a"])


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_counts(lengths: list[int]) -> None:
    data = rows_of(lengths)
    assert data.lengths.tolist() == lengths
    assert data.supervised_counts.tolist() == [
        int(data.row(i).supervised.sum()) for i in range(len(data))
    ]
