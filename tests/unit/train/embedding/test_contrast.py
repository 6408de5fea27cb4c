"""Texts of which none is far from another teach nothing."""

from __future__ import annotations

import numpy as np
import pytest

from ironcliw.errors import DataError
from tests.unit.train.data.token_rows import rows_of
from train.data.masks import TokenRow
from train.data.tokenized import TokenizedData
from train.embedding.contrast import check_contrast


def texts(*rows: tuple[str, ...], labelled: bool = False) -> TokenizedData:
    """Rows of an anchor, a positive and maybe negatives; a token a letter."""
    made = []
    for row in rows:
        starts = tuple(sum(map(len, row[:at])) for at in range(len(row)))
        tokens = np.array([ord(letter) for letter in "".join(row)], np.int32)
        made.append(TokenRow(tokens, np.zeros(len(tokens), np.bool_), None, starts, labelled))
    return TokenizedData.of_rows(made, [(0, at + 1) for at in range(len(made))], ["a.jsonl"])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            texts(("ab", "cd"), ("b", "cd"), labelled=True),
            "all 2 rows, a.jsonl:1 first, have the same label, .*; give texts of two labels",
        ),
        (texts(("ab", "cd")), "all 1 rows, .* the same positive, .* or with negatives at least"),
    ],
)
def test_nothing_is_far(data: TokenizedData, words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_contrast(data)


@pytest.mark.parametrize(
    "data",
    [
        texts(("a", "cd"), ("b", "cd"), ("c", "ce"), labelled=True),
        texts(("a", "b", "c"), ("d", "b", "c")),
        rows_of([4, 4]),
        texts(),
    ],
)
def test_something_is(data: TokenizedData) -> None:
    check_contrast(data)
