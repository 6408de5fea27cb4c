"""Off-policy evaluation against logs whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ironcliw.errors import DataError
from rl.offpolicy import (
    CLIP,
    LEAST_EFFECTIVE,
    Decisions,
    clipped_share,
    effective_size,
    fold_of,
    gain_of,
)

ACTIONS = 3
WIDTH = 4
SHARE = 0.2  # of decisions that try another option


def log_of(
    seed: int, count: int = 2000, *, gain: float = 0.02, share: float = SHARE, noise: float = 0.05
) -> tuple[Decisions, float]:
    """(a log of a policy that always takes action 0 but tries others, the truth).

    The other policy takes action 1 where the first feature is above 0. What it gains there is
    `gain` times that feature, and a workflow of four decisions has luck in common. The reward is
    not linear in the features, so the model of the estimator is wrong.
    """
    random = np.random.default_rng(seed)
    context = random.standard_normal((count, 1))
    features = np.zeros((count, ACTIONS, WIDTH))
    features[:, :, 0] = context
    for action in range(ACTIONS):
        features[:, action, 1] = float(action == 1)
        features[:, action, 2] = float(action == 2)
    chosen = np.where(context[:, 0] > 0, 1, 0)
    tried = random.random(count) < share
    other = random.integers(0, ACTIONS, count)
    action = np.where(tried, other, 0)
    rest = share / ACTIONS
    propensity = np.where(action == 0, 1.0 - share + rest, rest)
    cluster = np.arange(count) // 4
    luck = 0.02 * random.standard_normal(count // 4 + 1)[cluster]
    better = gain * np.maximum(context[:, 0], 0.0)
    worth = np.where(action == 1, better, np.where(action == 2, -0.01, 0.0))
    reward = -0.05 + 0.02 * np.sin(3 * context[:, 0]) + worth + luck
    reward += noise * random.standard_normal(count)
    rows = Decisions(
        features=features,
        action=action.astype(np.int64),
        propensity=propensity,
        reward=reward,
        chosen=chosen.astype(np.int64),
        base=np.zeros(count, dtype=np.int64),
        supported=np.ones(count, dtype=np.bool_),
        cluster=cluster,
    )
    return rows, float(np.where(chosen == 1, better, 0.0).mean())


def test_it_is_unbiased_and_its_intervals_hold() -> None:
    logs = (log_of(seed, 3000) for seed in range(100))
    found = [(gain_of(rows, 60), truth) for rows, truth in logs]
    errors = np.array([gain.mean - truth for gain, truth in found])
    assert not any(gain.no_verdict for gain, _ in found)
    assert abs(errors.mean()) < 3 * errors.std() / np.sqrt(len(errors)) + 2e-4
    covered = np.mean([gain.low <= truth <= gain.high for gain, truth in found])
    assert 0.88 <= covered <= 0.99
    widths = np.mean([gain.high - gain.low for gain, _ in found])
    assert widths < 8 * errors.std(), "no wider than need be"


def test_its_intervals_hold_at_the_exploration_in_use_where_the_model_is_wrong() -> None:
    """At 3 % what is tried stands for a hundred: nearly all of the model's error is in few rows."""
    logs = (log_of(seed, 15_000, gain=0.1, share=0.03) for seed in range(50))
    found = [(gain_of(rows, 60), truth) for rows, truth in logs]
    errors = np.array([gain.mean - truth for gain, truth in found])
    assert not any(gain.no_verdict for gain, _ in found)
    assert abs(errors.mean()) < 3 * errors.std() / np.sqrt(len(errors))
    assert np.mean([gain.low <= truth <= gain.high for gain, truth in found]) >= 0.86


def test_a_policy_that_is_worse_is_seen_to_be() -> None:
    gain = gain_of(log_of(1, 6000, gain=-0.05)[0])
    assert gain.high < 0


def test_without_a_difference_there_is_no_gain() -> None:
    missed = [gain_of(log_of(seed, gain=0.0)[0]) for seed in range(60)]
    assert np.mean([one.low > 0 for one in missed]) <= 0.1, "promoted by luck"


def test_decisions_that_depend_on_each_other_widen_the_interval() -> None:
    rows, _ = log_of(1, 4000, noise=0.01)
    # a workflow whose decisions are all taken alike, and all lucky or all unlucky
    whole = rows.cluster * 4
    same = replace(rows, action=rows.action[whole], propensity=rows.propensity[whole],
                   chosen=np.ones_like(rows.chosen))  # fmt: skip
    four = gain_of(same)
    alone = gain_of(replace(same, cluster=np.arange(4000)))
    assert alone.mean == pytest.approx(four.mean, abs=0.003)
    assert four.high - four.low > 1.3 * (alone.high - alone.low), "4000 that say what 1000 say"


def small(rows: Decisions, count: int) -> Decisions:
    values = {name: getattr(rows, name)[:count] for name in rows.__slots__}
    return Decisions(**values)


def test_few_decisions_give_no_verdict() -> None:
    gain = gain_of(small(log_of(1)[0], 150))
    assert (gain.interval, gain.mean) == (None, 0.0)
    assert "that it would take differently are worth" in gain.no_verdict
    assert f"of equal weight, and {LEAST_EFFECTIVE:.0f} are needed" in gain.no_verdict


def test_choices_that_were_never_tried_give_no_verdict() -> None:
    rows, _ = log_of(1, share=1e-9)
    gain = gain_of(rows)
    assert gain.interval is None
    assert gain.decisions == 2000
    assert "are worth 0 of equal weight" in gain.no_verdict, "what all agree on says nothing"


def test_choices_that_could_not_be_tried_give_no_verdict() -> None:
    rows, _ = log_of(1)
    gain = gain_of(replace(rows, supported=rows.chosen == rows.base))
    assert gain.differing == 0
    assert "could not have been taken so" in gain.no_verdict


def test_what_lies_beyond_the_clip_is_told_and_above_a_share_nothing_is_said() -> None:
    rows, _ = log_of(1, 12_000, share=0.03)
    assert gain_of(rows).clipped == pytest.approx(0.0, abs=1e-9), "three options, three percent"
    rare = replace(rows, propensity=np.where(rows.action == 0, 0.99, 1 / 400))
    gain = gain_of(rare)
    assert gain.clipped == pytest.approx(0.75)
    assert gain.interval is None
    assert "75% of the weight of what was tried lies beyond 100 times" in gain.no_verdict
    assert clipped_share(np.array([CLIP, 3 * CLIP])) == 0.5
    assert clipped_share(np.zeros(2)) == 0.0


def test_two_policies_that_agree_are_not_compared() -> None:
    rows, _ = log_of(1)
    gain = gain_of(replace(rows, chosen=rows.base))
    assert gain.no_verdict == "it would take none of 2000 decisions differently"


def test_effective_size() -> None:
    assert effective_size(np.ones(50)) == pytest.approx(50.0)
    assert effective_size(np.array([1.0, 0.0, 0.0])) == 1.0
    assert effective_size(np.zeros(3)) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": np.full(8, np.nan)}, "reward of the logged decisions holds what is no number"),
        ({"features": np.full((8, 3, 4), np.inf)}, "features of the logged decisions holds"),
        ({"propensity": np.zeros(8)}, "a propensity of the logged decisions is no probability"),
        ({"propensity": np.full(8, 1.5)}, "a propensity of the logged decisions is no"),
        ({"base": np.zeros(7, dtype=np.int64)}, "8 actions and 7 of base"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, npt.NDArray[Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(small(log_of(1)[0], 8), **change)


def test_names_become_numbers() -> None:
    assert fold_of(["b", "a", "b"]).tolist() == [1, 0, 1]
