"""Tokenised rows of given lengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train.data.masks import TokenRow
from train.data.tokenized import TokenizedData


def token_row(length: int, supervised: int, first: int = 0) -> TokenRow:
    """Tokens that count from a number; the last ones are supervised."""
    tokens = np.arange(first, first + length, dtype=np.int32)
    return TokenRow(tokens, np.arange(length) >= length - supervised)


def rows_of(lengths: Sequence[int]) -> TokenizedData:
    """Rows that differ in their tokens; half of each, and at least one token, is supervised."""
    rows = [token_row(n, max(1, n // 2), 1000 * number) for number, n in enumerate(lengths)]
    return TokenizedData.of_rows(rows, [(0, n + 1) for n in range(len(rows))], ["a.jsonl"])
