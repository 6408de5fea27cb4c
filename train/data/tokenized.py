"""Tokenised rows in flat arrays.

    tokens      int32 [T]      all rows, one after the other
    supervised  bool  [T]      which tokens the model shall learn to write
    offsets     int64 [n + 1]  where each row starts
    files       int32 [n]      which of `names` each row comes from
    lines       int64 [n]      and from which line
    borders     int32 [n, 2]   of preferences: see `train.data.pairs`; [0, 2] otherwise
    groups      of texts that are compared by their vectors: see `train.data.text_places`

As arrays they pass between Ray's workers without a copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ironcliw.errors import DataError
from train.data.masks import TokenRow
from train.data.text_places import TextPlaces

_DTYPES = {
    "tokens": np.dtype("<i4"),
    "supervised": np.dtype("|b1"),
    "offsets": np.dtype("<i8"),
    "borders": np.dtype("<i4"),
}
"""What decides how a model is trained, as the digest reads it; a file may be renamed."""


def _no_borders() -> npt.NDArray[np.int32]:
    return np.zeros((0, 2), np.int32)


@dataclass(frozen=True)
class TokenizedData:
    """Rows as the model reads them.

    Attributes:
        tokens: int32 [T].
        supervised: bool [T]; the first token of a row never is.
        offsets: int64 [n + 1], from 0 to T.
        files: int32 [n], places in `names`.
        lines: int64 [n], counted from 1.
        names: The files that rows come from.
        borders: int32 [n, 2] of preferences, [0, 2] where rows are to be imitated.
        groups: Where texts lie that are compared by their vectors; None: rows are to be written.
    """

    tokens: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    files: npt.NDArray[np.int32]
    lines: npt.NDArray[np.int64]
    names: tuple[str, ...]
    borders: npt.NDArray[np.int32] = field(default_factory=_no_borders)
    groups: TextPlaces | None = None

    @classmethod
    def of_rows(
        cls, rows: Sequence[TokenRow], sources: Sequence[tuple[int, int]], names: Sequence[str]
    ) -> TokenizedData:
        """Of single rows.

        Args:
            rows: In the order of the data.
            sources: For each row its place in `names` and its line.
            names: The files.
        """
        places = np.array(sources, np.int64).reshape(len(rows), 2)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row.tokens) for row in rows], out=offsets[1:])
        return cls(
            _joined([row.tokens for row in rows], np.int32),
            _joined([row.supervised for row in rows], np.bool_),
            offsets,
            places[:, 0].astype(np.int32),
            places[:, 1].copy(),
            tuple(names),
            _borders(rows),
            TextPlaces.of_rows(rows),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> TokenRow:
        """One row; its arrays are views."""
        start, end = self.offsets[index], self.offsets[index + 1]
        borders = None
        if self.are_pairs:
            first, second = self.borders[index].tolist()
            borders = (first, second)
        starts = None if self.groups is None else self.groups.of_row(index)
        labelled = self.groups is not None and self.groups.labelled
        return TokenRow(
            self.tokens[start:end], self.supervised[start:end], borders, starts, labelled
        )

    @property
    def are_pairs(self) -> bool:
        """Whether the rows are preferences."""
        return len(self.borders) > 0

    def source(self, index: int) -> str:
        """Where a row comes from, as `file:line`."""
        return f"{self.names[self.files[index]]}:{self.lines[index]}"

    def supervised_count(self, index: int) -> int:
        """How many tokens of a row are supervised."""
        return int(self.supervised_counts[index])

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, int64 [n]."""
        return np.diff(self.offsets)

    @cached_property
    def supervised_counts(self) -> npt.NDArray[np.int64]:
        """Supervised tokens of each row, int64 [n]."""
        before = np.zeros(len(self.supervised) + 1, np.int64)
        np.cumsum(self.supervised, out=before[1:])
        return np.diff(before[self.offsets])

    @cached_property
    def digest(self) -> str:
        """sha256 of tokens, masks and the rows' borders; names and lines do not count."""
        total = hashlib.sha256(b"ironcliw tokenised rows 1")
        for name, dtype in _DTYPES.items():
            if name == "borders" and not self.are_pairs:
                continue
            array = np.ascontiguousarray(getattr(self, name), dtype)
            total.update(array.size.to_bytes(8, "little"))
            total.update(array.data if len(array) else b"")
        if self.groups is not None:
            total.update(self.groups.content())
        return total.hexdigest()


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _borders(rows: Sequence[TokenRow]) -> npt.NDArray[np.int32]:
    found = [row.borders for row in rows if row.borders is not None]
    if not found:
        return _no_borders()
    if len(found) < len(rows):
        raise DataError(
            f"{len(found)} of {len(rows)} rows are preferences (prompt, chosen, rejected) and the "
            "others are answers to be imitated; a run takes rows of one kind"
        )
    return np.array(found, np.int32)
