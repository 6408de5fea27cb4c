"""Win rates, their intervals, and what follows from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.comparison.win_rate import WinRate, win_rate

SCORES = st.lists(st.floats(-100, 100), min_size=1, max_size=40)


def test_wins_ties_and_margin() -> None:
    found = win_rate([1.0, 2.0, 3.0, -4.0], [0.0, 2.0, 5.0, -8.0])
    assert (found.wins, found.ties, found.rows) == (2, 1, 4)
    assert found.rate == 0.625
    assert found.margin == pytest.approx((1 + 0 - 2 + 4) / 4)


def test_rounding_decides_no_row() -> None:
    assert win_rate([-250.0], [-250.0001]).ties == 1
    assert win_rate([-250.0], [-250.01]).wins == 1


def test_wilsons_interval() -> None:
    # statsmodels.stats.proportion.proportion_confint(8, 10, method="wilson")
    low, high = WinRate(8, 0, 10, 0.0).interval
    assert low == pytest.approx(0.4901625, abs=1e-6)
    assert high == pytest.approx(0.9433178, abs=1e-6)


@pytest.mark.parametrize(
    ("wins", "rows", "verdict"), [(9, 10, "better"), (1, 10, "worse"), (6, 10, "even")]
)
def test_verdicts(wins: int, rows: int, verdict: str) -> None:
    assert WinRate(wins, 0, rows, 0.0).verdict == verdict


@given(SCORES, st.data())
def test_the_other_way_round(ours: list[float], data: st.DataObject) -> None:
    theirs = data.draw(st.lists(st.floats(-100, 100), min_size=len(ours), max_size=len(ours)))
    one, other = win_rate(ours, theirs), win_rate(theirs, ours)
    assert one.rate + other.rate == pytest.approx(1.0)
    assert one.margin == pytest.approx(-other.margin)
    low, high = one.interval
    assert 0 <= low <= one.rate + 1e-12
    assert one.rate - 1e-12 <= high <= 1
