"""The interval is that of Young's formula, between its bounds."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.checkpoint.interval import (
    MOST_SECONDS,
    MOST_SHARE,
    Interval,
    SaveCost,
    choose_interval,
    mean_seconds_between_failures,
    most_lost,
)


def test_the_formula() -> None:
    # 20 ms and two hours: T = sqrt(2 * 0.02 * 7200) = 16.97 s
    assert choose_interval(SaveCost(0.02, 0.3), 1.0, 7200.0) == Interval(17, 18)
    assert choose_interval(SaveCost(0.02, 0.3), 2.0, 7200.0) == Interval(8, 9)


@given(st.floats(1e-4, 10), st.floats(0.01, 10), st.floats(600, 1e7))
def test_no_other_interval_costs_less(blocking: float, step: float, mtbf: float) -> None:
    steps = choose_interval(SaveCost(blocking, blocking), step, mtbf, most_seconds=math.inf).steps

    def loss(count: int) -> float:
        return blocking / (count * step) + count * step / (2 * mtbf)

    affordable = math.ceil(blocking / (MOST_SHARE * step))
    if steps > max(1, affordable):
        # rounding to whole steps may miss the least by less than a step to either side
        assert loss(steps) <= min(loss(steps - 1), loss(steps + 1)) * (1 + 1 / steps)


@given(st.floats(0, 100), st.floats(0.001, 100), st.floats(1, 1e8), st.integers(1, 50))
def test_the_bounds(blocking: float, step: float, mtbf: float, least: int) -> None:
    steps = choose_interval(SaveCost(blocking, blocking), step, mtbf, least).steps
    assert steps >= least
    assert blocking <= MOST_SHARE * steps * step * (1 + 1e-9)
    affordable = math.ceil(blocking / (MOST_SHARE * step))
    assert steps * step <= MOST_SECONDS or steps in (least, affordable)


def test_a_save_that_costs_nothing_is_made_each_step() -> None:
    assert choose_interval(SaveCost(0.0, 0.0), 0.5, 7200.0) == Interval(1, 1)


def test_what_a_kill_can_cost() -> None:
    # two and a half steps are done while the save is written: the third is not finished, but begun
    assert most_lost(10, step_seconds=2.0, durable_seconds=5.0) == 13


def test_the_hazard_is_learnt() -> None:
    assert mean_seconds_between_failures() == 40 * 3600
    assert mean_seconds_between_failures(2.0) == 7200
    # one loss in eight machine hours, four machines at once
    assert mean_seconds_between_failures(40.0, 8.0, 1, 4) == 24 * 3600 / 4


@pytest.mark.parametrize(
    "wrong",
    [{"prior_hours": 0.0}, {"observed_hours": -1.0}, {"failures": -1}, {"machines": 0}],
)
def test_a_wrong_hazard_is_refused(wrong: dict[str, Any]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f"^{name} is {value!r}; give a finite number"):
        mean_seconds_between_failures(**wrong)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("blocking_seconds", (SaveCost(-1.0, 0.0), 1.0, 1.0)),
        ("blocking_seconds", (SaveCost(math.nan, 0.0), 1.0, 1.0)),
        ("durable_seconds", (SaveCost(1.0, math.inf), 1.0, 1.0)),
        ("step_seconds", (SaveCost(1.0, 1.0), 0.0, 1.0)),
        ("mtbf_seconds", (SaveCost(1.0, 1.0), 1.0, 0.0)),
        ("least", (SaveCost(1.0, 1.0), 1.0, 1.0, 0)),
    ],
)
def test_wrong_measurements_are_refused(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=f"^{name} is .*; give a finite number"):
        choose_interval(*arguments)
