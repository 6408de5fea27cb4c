"""Whether there is anything to learn from texts that are compared."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ironcliw.errors import DataError
from train.data.masks import TokenRow
from train.data.tokenized import TokenizedData


def check_contrast(data: TokenizedData) -> None:
    """Refuse rows of texts of which none is far from any other: their loss would be 0.

    Args:
        data: Of any kind; rows that are to be written pass.

    Raises:
        DataError: all rows have the same positive, or the same label, and none has a negative.
    """
    if data.groups is None or not len(data):
        return
    first = _positive(data.row(0))
    for index in range(len(data)):
        row = data.row(index)
        assert row.starts is not None
        if len(row.starts) > 2 or not np.array_equal(_positive(row), first):
            return
    what, wanted = (
        ("label", "texts of two labels")
        if data.groups.labelled
        else ("positive", "rows with two positives, or with negatives")
    )
    raise DataError(
        f"all {len(data)} rows, {data.source(0)} first, have the same {what}, and nothing is far "
        f"from it; give {wanted} at least"
    )


def _positive(row: TokenRow) -> npt.NDArray[np.int32]:
    """Its tokens."""
    assert row.starts is not None
    ends = (*row.starts, len(row.tokens))
    return row.tokens[ends[1] : ends[2]]
