"""What is left of a step that runs: against draws, and in its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rl.remaining import seconds_left


@pytest.mark.parametrize("elapsed", [0.0, 30.0, 100.0, 200.0])
@pytest.mark.parametrize("sigma", [0.25, 0.6])
def test_it_is_the_mean_of_what_is_left_of_those_that_still_run(
    elapsed: float, sigma: float
) -> None:
    draws = 100.0 * np.exp(sigma * np.random.default_rng(0).standard_normal(2_000_000))
    still = draws[draws > elapsed] - elapsed
    assert seconds_left(100.0, elapsed, sigma) == pytest.approx(float(still.mean()), rel=0.02)


def test_what_is_known_ends_when_it_is_known_to() -> None:
    assert seconds_left(100.0, 30.0, 0.0) == 70.0
    assert seconds_left(100.0, 99.0, 0.0) == 10.0  # it may be wrong all the same


def test_who_is_far_beyond_will_take_longer_yet_and_nothing_is_infinite() -> None:
    found = [seconds_left(10.0, elapsed, 0.3) for elapsed in (15.0, 40.0, 1e3, 1e6)]
    assert all(math.isfinite(one) for one in found)
    assert found == sorted(found)
    assert seconds_left(10.0, 0.0, 3.0) < 20.0
