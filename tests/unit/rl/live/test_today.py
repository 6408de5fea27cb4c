"""Durations of functions as they are learned between two nights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.situation import EndedFacts, ObservingPolicy
from rl.calibration.fit import CLOUD, HOME, PRIOR_SECONDS, LogNormal, prior
from rl.live.today import Today
from rl.policy import NumpyPolicy
from tests.unit.rl.live.situations import NOW, situation_of, step_of


def after(runs: int, seconds: float, place: str = HOME, today: Today | None = None) -> Today:
    today = today or Today(prior())
    for _ in range(runs):
        today.ran("f", place, seconds)
    return today


def test_a_new_function_is_known_after_some_runs() -> None:
    before = prior()
    medians = [after(runs, 0.01).fit.seconds("f", HOME).median for runs in (0, 1, 3, 10)]
    assert medians[0] == pytest.approx(PRIOR_SECONDS)
    assert medians == sorted(medians, reverse=True)
    # one row of the prior beside ten runs
    wanted = math.exp((10 * math.log(0.01) + math.log(PRIOR_SECONDS)) / 11)
    assert medians[3] == pytest.approx(wanted, rel=0.12)
    assert after(10, 0.01).fit.seconds("g", HOME) == before.seconds("g", HOME), "of another nothing"


def test_what_a_place_teaches_of_the_other_is_taken_by_the_slowdown() -> None:
    today = after(40, 10.0)
    home, cloud = (today.fit.seconds("f", place) for place in (HOME, CLOUD))
    assert cloud.mu - home.mu == pytest.approx(today.fit.slowdown.mu)
    after(40, 30.0, CLOUD, today)
    assert today.fit.seconds("f", CLOUD).median == pytest.approx(30.0, rel=0.1)
    assert today.fit.seconds("f", HOME).median == pytest.approx(home.median)


def test_a_fit_of_many_rows_gives_way_slowly() -> None:
    known = replace(prior(), durations={"f": {HOME: LogNormal(math.log(10.0), 0.2, 500)}})
    one = after(1, 100.0, today=Today(known)).fit.seconds("f", HOME).median
    many = after(40, 100.0, today=Today(known)).fit.seconds("f", HOME).median
    assert 10.0 <= one < 13.0
    assert 40.0 < many < 100.0


def test_the_deviation_is_that_of_the_runs() -> None:
    draws = np.random.default_rng(5).normal(math.log(20.0), 1.5, 40)
    today = Today(prior())
    for one in draws:
        today.ran("f", HOME, math.exp(one))
    assert today.fit.seconds("f", HOME).sigma == pytest.approx(float(draws.std()), rel=0.15)


def test_beliefs_stay_the_same_object_while_nothing_moves() -> None:
    today = after(30, 5.0)
    before = today.fit
    assert not today.ran("f", HOME, 5.0)
    assert today.fit is before
    assert today.ran("f", HOME, 500.0)
    assert today.fit is not before
    assert today.runs == 32


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_duration_is_passed_over(seconds: float) -> None:
    today = Today(prior())
    assert not today.ran("f", HOME, seconds)
    assert not today.ran("f", "elsewhere", 1.0)
    assert today.runs == 0
    assert today.fit == prior()


def test_the_authors_word_counts_as_one_run() -> None:
    today = Today(prior())
    today.ran("f", HOME, 1.0, expected=100.0)
    assert today.fit.seconds("f", HOME, 100.0).median == pytest.approx(10.0)


def test_the_router_decides_by_what_it_has_seen(tmp_path: Path) -> None:
    policy = NumpyPolicy(tmp_path)
    assert isinstance(policy, ObservingPolicy)
    situation = situation_of(step={"expected_seconds": None})

    def believed() -> float:
        return float(policy.place(situation).features["home_seconds"])

    before = believed()
    for _ in range(10):
        policy.ran(EndedFacts("f", None, 0.05, NOW), HOME)
    assert before == pytest.approx(PRIOR_SECONDS)
    assert believed() < 0.2
    assert policy.place(situation).details["runs_since"] == 10
    policy.believe()
    assert believed() == pytest.approx(PRIOR_SECONDS), "a new fit has seen the runs itself"
    assert step_of().target == "f"
