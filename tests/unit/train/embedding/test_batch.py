"""Which texts are compared with which."""

from __future__ import annotations

import pytest

from ironcliw.errors import DataError
from tests.unit.train.embedding.encoders import grouped
from train.data.masks import TokenRow
from train.data.tokenized import TokenizedData
from train.embedding.batch import Comparison, GroupedTexts, compare

A, B, C, D = [5, 6], [7], [8, 9, 10], [11]


def shown(found: Comparison) -> list[tuple[list[int], list[int], list[list[int]]]]:
    """Of each row: anchor, its own, and all that it is to be far from."""
    texts = [text.tolist() for text in found.texts]
    candidates = [texts[at] for at in found.candidates]
    return [
        (
            texts[found.anchors[row]],
            candidates[found.own[row]],
            [
                text
                for at, text in enumerate(candidates)
                if at != found.own[row] and not found.excluded[row, at]
            ],
        )
        for row in range(len(found.anchors))
    ]


def compared(data: TokenizedData, names: bool = True) -> Comparison:
    given = GroupedTexts(data)
    rows = range(len(data))
    return compare(given, rows, [given.positive(row, names, 0.0) for row in rows])


def test_positives_of_other_rows_and_hard_negatives_are_far() -> None:
    found = compared(grouped([A, B], [C, D, [12], [13]]))
    assert shown(found) == [(A, B, [D, [12], [13]]), (C, D, [B, [12], [13]])]


def test_equal_texts_are_one_candidate() -> None:
    found = compared(grouped([A, B], [C, B], [D, [12], B]))
    assert len(found.candidates) == 2
    # a positive of one row may be a hard negative of another
    assert shown(found) == [(A, B, [[12]]), (C, B, [[12]]), (D, [12], [B])]


def test_another_positive_of_the_same_anchor_is_not_far() -> None:
    assert shown(compared(grouped([A, B], [A, C], [D, [12]]))) == [
        (A, B, [[12]]),
        (A, C, [[12]]),
        (D, [12], [B, C]),
    ]


def test_no_anchor_is_far_from_itself() -> None:
    # both directions of a pair
    assert shown(compared(grouped([A, B], [B, A], [C, D]))) == [
        (A, B, [D]),
        (B, A, [D]),
        (C, D, [B, A]),
    ]


def test_texts_of_one_label_are_not_far() -> None:
    one, two = [20], [21]
    data = grouped([A, one], [B, two], [C, one], [D, two], labelled=True)
    assert shown(compared(data)) == [
        (A, one, [two]),
        (B, two, [one]),
        (C, one, [two]),
        (D, two, [one]),
    ]
    assert shown(compared(data, names=False)) == [
        (A, C, [D, B]),
        (B, D, [C, A]),
        (C, A, [D, B]),
        (D, B, [C, A]),
    ]


def test_which_text_of_a_label_is_drawn() -> None:
    one = [20]
    given = GroupedTexts(grouped([A, one], [B, one], [C, one], [D, [21]], labelled=True))
    drawn = [given.positive(1, False, share).tolist() for share in (0.0, 0.49, 0.5, 0.99)]
    assert drawn == [A, A, C, C]
    assert given.positive(1, True, 0.0).tolist() == one
    # alone under its label
    assert given.positive(3, False, 0.5).tolist() == [21]


def test_rows_of_two_kinds_are_refused() -> None:
    rows = [grouped([A, B]).row(0), grouped([A, B], labelled=True).row(0)]
    with pytest.raises(DataError, match="texts with a label and others are not"):
        TokenizedData.of_rows(rows, [(0, 1), (0, 2)], ["a"])


def test_a_row_is_what_it_was_made_of() -> None:
    data = grouped([A, B], [C, D, A])
    assert data.row(1).starts == (0, 3, 4)
    assert data.row(1).tokens.tolist() == [*C, *D, *A]
    assert isinstance(data.row(0), TokenRow)


def test_the_digest_knows_borders_and_labels() -> None:
    digests = {
        grouped([[5], [6, 7]]).digest,
        grouped([[5, 6], [7]]).digest,
        grouped([[5], [6, 7]], labelled=True).digest,
        grouped([[5], [6], [7]]).digest,
    }
    assert len(digests) == 4
