"""Quality: what is left out, and at which value."""

from __future__ import annotations

import pytest

from train.data.filters import check_quality, repeated_lines
from train.data.options import QualityFilters
from train.data.problems import RowError


@pytest.mark.parametrize(
    ("texts", "share"),
    [
        ([], 0.0),
        ([""], 0.0),
        (["a\nb"], 0.0),
        (["a\n\n a \nb\na"], 0.5),
        (["a", "a"], 0.5),
        (["a\n" * 10], 0.9),
    ],
)
def test_repeated_lines(texts: list[str], share: float) -> None:
    assert repeated_lines(texts) == pytest.approx(share)


FILTERS = QualityFilters(min_answer_tokens=3, max_answer_tokens=5, max_repeated_lines=0.5)


@pytest.mark.parametrize(
    ("answer", "supervised", "message"),
    [
        ("a", 2, "has 2 supervised tokens, fewer than filters.min_answer_tokens, 3; it is left"),
        ("a", 6, "has 6 supervised tokens, more than filters.max_answer_tokens, 5"),
        ("a\na\na", 4, "has 67% repeated lines, more than filters.max_repeated_lines, 50%"),
    ],
)
def test_a_row_that_is_left_out(answer: str, supervised: int, message: str) -> None:
    with pytest.raises(RowError, match=message) as caught:
        check_quality([answer], supervised, FILTERS)
    assert (caught.value.rule, caught.value.stops) == ("quality", False)


@pytest.mark.parametrize("supervised", [3, 5])
def test_a_row_at_the_limits_is_kept(supervised: int) -> None:
    check_quality(["a\na"], supervised, FILTERS)


def test_by_default_everything_is_kept() -> None:
    check_quality(["a\n" * 50], 10_000, QualityFilters())
