"""The order is a permutation, and the same for ever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironcliw.errors import SettingsError
from train.data.order import order


def test_the_order_never_changes() -> None:
    # a release that gives others could not resume the runs of this one
    assert order(0, 0, 10).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert order(7, 3, 10).tolist() == [2, 5, 9, 7, 3, 0, 6, 8, 4, 1]
    assert order(2**64 - 1, 0, 5).tolist() == [0, 4, 2, 3, 1]


@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 10**6), rows=st.integers(0, 300))
def test_every_row_once(seed: int, epoch: int, rows: int) -> None:
    found = order(seed, epoch, rows)
    assert found.dtype == np.int64
    assert sorted(found.tolist()) == list(range(rows))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(order(seed, epoch, 50)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_every_place_is_as_likely() -> None:
    # of 4 rows over 4000 epochs each stands at each place 1000 times, give or take 5 deviations
    counts = np.zeros((4, 4), np.int64)
    for epoch in range(4000):
        counts[np.arange(4), order(1, epoch, 4)] += 1
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range(seed: int) -> None:
    with pytest.raises(SettingsError, match=r"seed is .*; give a number from 0 to 2\*\*64 - 1"):
        order(seed, 0, 3)
