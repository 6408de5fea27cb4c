"""Which texts of a batch are compared with which. Pure.

Anchors are compared with candidates: the positives and the hard negatives of all rows. A text that
several rows have is one candidate, so that what is right for a row is never a negative of it. Left
out are, too, other positives of the same anchor or label, and the anchor itself.

Shapes: M distinct texts, R rows, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.data.text_places import TextPlaces
from train.data.tokenized import TokenizedData

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows that are compared with each other.

    Attributes:
        texts: M token sequences, int32 each.
        anchors: int64 [R], places in `texts`.
        candidates: int64 [C], places in `texts`.
        own: int64 [R], which candidate is each row's positive.
        excluded: bool [R, C], candidates that say nothing about a row.
    """

    texts: tuple[Tokens, ...]
    anchors: npt.NDArray[np.int64]
    candidates: npt.NDArray[np.int64]
    own: npt.NDArray[np.int64]
    excluded: npt.NDArray[np.bool_]


class GroupedTexts:
    """The texts of rows, and which rows have the same label.

    Args:
        data: Rows of texts that are compared by their vectors.

    Attributes:
        labelled: Whether positives are the names of labels.
        labels: int64 [n]; of each row, a number that rows of the same label share; of pairs, of
            the same anchor.
    """

    def __init__(self, data: TokenizedData) -> None:
        assert data.groups is not None, "the rows are not texts to be compared"
        self._tokens = data.tokens
        self._groups: TextPlaces = data.groups
        self.labelled = data.groups.labelled
        numbers: dict[bytes, int] = {}
        place = 1 if self.labelled else 0
        keys = (self.text(row, place).tobytes() for row in range(len(data)))
        self.labels = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
        self._by_label = np.argsort(self.labels, kind="stable")
        self._first = np.searchsorted(self.labels[self._by_label], np.arange(len(numbers) + 1))

    def text(self, row: int, place: int) -> Tokens:
        """The tokens of one text of a row: 0 is the anchor, 1 the positive, then negatives."""
        at = self._groups.first[row] + place
        return self._tokens[self._groups.starts[at] : self._groups.starts[at + 1]]

    def negatives(self, row: int) -> list[Tokens]:
        """The hard negatives of a row."""
        count = int(self._groups.first[row + 1] - self._groups.first[row])
        return [self.text(row, place) for place in range(2, count)]

    def positive(self, row: int, name: bool, drawn: float) -> Tokens:
        """What an anchor is to be near to.

        Args:
            row: Of the anchor.
            name: Of a labelled text: whether it is the label's name; where there is no other text
                of the label, it is in any case.
            drawn: From 0 to 1 (excluded): which other text of the label.
        """
        if not self.labelled or name:
            return self.text(row, 1)
        label = self.labels[row]
        rows = self._by_label[self._first[label] : self._first[label + 1]]
        others = rows[rows != row]
        if not len(others):
            return self.text(row, 1)
        return self.text(int(others[int(drawn * len(others))]), 0)

    def distinct_labels(self) -> list[int]:
        """One row of each label."""
        return [int(self._by_label[first]) for first in self._first[:-1]]


def compare(
    given: GroupedTexts,
    rows: Sequence[int],
    positives: Sequence[Tokens],
    more: Sequence[int] = (),
) -> Comparison:
    """Rows against the positives and negatives of all of them.

    Args:
        given: The texts.
        rows: R rows.
        positives: Of each row, as chosen.
        more: Rows whose positives are candidates as well.
    """
    texts = _Distinct()
    anchors = [texts.add(given.text(row, 0)) for row in rows]
    own = [texts.add(tokens) for tokens in positives]
    others = [texts.add(given.text(row, 1)) for row in more]
    negatives = [texts.add(tokens) for row in rows for tokens in given.negatives(row)]
    candidates = list(dict.fromkeys([*own, *others, *negatives]))
    place = {text: at for at, text in enumerate(candidates)}
    labels_of: dict[int, set[int]] = {}
    for row, text in zip([*rows, *more], [*own, *others], strict=True):
        labels_of.setdefault(place[text], set()).add(int(given.labels[row]))
    excluded = np.zeros((len(rows), len(candidates)), np.bool_)
    for column, labels in labels_of.items():
        excluded[:, column] = np.isin(given.labels[list(rows)], list(labels))
    for at, anchor in enumerate(anchors):
        if anchor in place:
            excluded[at, place[anchor]] = True
    chosen = np.array([place[text] for text in own], np.int64)
    excluded[np.arange(len(rows)), chosen] = False
    return Comparison(
        tuple(texts.found),
        np.array(anchors, np.int64),
        np.array(candidates, np.int64),
        chosen,
        excluded,
    )


class _Distinct:
    """Token sequences, each once."""

    def __init__(self) -> None:
        self.found: list[Tokens] = []
        self._places: dict[bytes, int] = {}

    def add(self, tokens: Tokens) -> int:
        place = self._places.setdefault(tokens.tobytes(), len(self.found))
        if place == len(self.found):
            self.found.append(tokens)
        return place
