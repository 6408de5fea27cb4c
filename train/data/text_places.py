"""Where the texts of rows lie that are compared by their vectors.

starts    int64 [M + 1]  where each of M texts begins, and the number of all tokens
first     int64 [n + 1]  the first text of each of n rows, and M
labelled                 whether the second text of each row is the name of its label
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ironcliw.errors import DataError
from train.data.masks import TokenRow


@dataclass(frozen=True)
class TextPlaces:
    """Of all rows; a row has an anchor, a positive, and maybe negatives.

    Attributes:
        starts: int64 [M + 1], places in the tokens of all rows.
        first: int64 [n + 1], places in `starts`.
        labelled: Whether positives are names of labels.
    """

    starts: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    labelled: bool

    @classmethod
    def of_rows(cls, rows: Sequence[TokenRow]) -> TextPlaces | None:
        """Of single rows; None where they are of another kind, or there are none.

        Raises:
            DataError: some rows are of another kind than others.
        """
        kinds = {(row.starts is not None, row.labelled) for row in rows}
        if len(kinds) > 1:
            raise DataError(
                "some rows are texts with a label and others are not (anchor and positive); a run "
                "takes rows of one kind"
            )
        starts: list[int] = []
        first, at = [0], 0
        for row in rows:
            if row.starts is None:
                return None
            starts += [at + start for start in row.starts]
            first.append(len(starts))
            at += len(row.tokens)
        if not rows:
            return None
        return cls(np.array([*starts, at], np.int64), np.array(first, np.int64), rows[0].labelled)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of_row(self, row: int) -> tuple[int, ...]:
        """Where each text of a row begins, from the row's beginning."""
        own = self.starts[self.first[row] : self.first[row + 1]]
        return tuple((own - own[0]).tolist())

    def content(self) -> bytes:
        """What of this decides how a model is trained, for a digest."""
        arrays = [np.ascontiguousarray(each, "<i8").tobytes() for each in (self.starts, self.first)]
        return b"".join([b"labelled" if self.labelled else b"groups", *arrays])
