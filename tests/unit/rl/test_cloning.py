"""Behaviour cloning: what is shown is what a plan did, told by what can be seen beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ironcliw.errors import DataError
from rl.clairvoyant import Plan, search
from rl.features import CONTEXT, OPTION
from rl.learning.cloning import ROUND, Shown, choices_of, fit_choices, shown_on
from rl.learning.days import training_days
from rl.learning.network import Scorer
from rl.learning.plan import Training
from rl.learning.train import train
from rl.neural import Learned
from rl.parameters import load_parameters, policy_of
from rl.policy_file import load_policy, save_policy
from rl.regime import Regime, load_regime
from rl.simulator import simulate
from rl.view import ACTIONS, HOME, WAIT
from tests.unit.rl.made_days import made_day, step

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"
PLAN = Training(
    seed=4, decisions=30, epochs=2, width=8, members=1, validation=1, confirmation=1, reach=0.15,
    model="network", randomised=0.0, horizon=600.0, margins=(0.3,), shrinks=(1.0,), cloned=2,
    searched=8,
)  # fmt: skip


@pytest.fixture
def light() -> Regime:
    return load_regime(FOLDER / "light.toml")


def test_what_a_plan_takes_is_shown_by_what_is_believed(light: Regime) -> None:
    """Durations are known to a third there; a plan knows them, and what is shown must not."""
    base = policy_of(load_parameters())
    day = next(training_days([light], PLAN, ROUND))
    made, _ = search(day, (load_parameters(),), evaluations=8)
    shown = list(choices_of(day, made, base, PLAN.reach))
    assert len(shown) > 20
    assert all(there[taken] and there.sum() > 1 for _, _, _, there, taken in shown)
    believed = [step.home_mean for one in day.workflows for step in one.steps]
    truth = [step.home_seconds for one in day.workflows for step in one.steps]
    # of a step that goes on where it was there is less to do
    rows = [one for one, *_ in shown if not one[CONTEXT.index("is_checkpointable")]]
    seconds = [float(np.expm1(8.0 * one[CONTEXT.index("log_home_seconds")])) for one in rows]
    near = [min(abs(one / other - 1.0) for other in believed) for one in seconds]
    assert max(near) < 0.02
    far = [min(abs(one / other - 1.0) for other in truth) for one in seconds]
    assert np.mean(np.array(far) > 0.02) > 0.1


def test_an_empty_plan_shows_what_the_base_would_take_where_all_is_known() -> None:
    base = policy_of(load_parameters())
    day = made_day([(0.0, [step(60, 4.0), step(300, 6.0), step(90, 6.0)])])
    shown = list(choices_of(day, Plan(load_parameters()), base, 1.0))
    assert shown
    for _, _, over, there, taken in shown:
        assert taken == min(np.flatnonzero(there), key=over.__getitem__)


def _made(taken: int, count: int = 200) -> Shown:
    """Two options, the second believed to cost a cent more; which was taken is said."""
    random = np.random.default_rng(0)
    context = random.normal(size=(count, len(CONTEXT))).astype(np.float32)
    options = np.zeros((count, ACTIONS, len(OPTION)), dtype=np.float32)
    for action in range(ACTIONS):
        options[:, action, action] = 1.0
    there = np.zeros((count, ACTIONS), dtype=np.bool_)
    there[:, [HOME, WAIT]] = True
    over = np.zeros((count, ACTIONS), dtype=np.float32)
    over[:, WAIT] = 0.01
    return Shown(context, options, over, there, np.full(count, taken))


def test_it_begins_at_the_base_and_learns_what_was_shown() -> None:
    plan = replace(PLAN, epochs=12, batch=32, rate=1e-2)
    _, before, after = fit_choices(_made(HOME), plan)
    assert (before, after) == (1.0, 1.0)
    scorer, before, after = fit_choices(_made(WAIT), plan)
    assert (before, after) == (0.0, 1.0)
    options = torch.eye(ACTIONS, len(OPTION))[None]
    with torch.no_grad():
        scores = scorer(torch.zeros(1, len(CONTEXT)), options)[0]
        none = Scorer([8, 8])(torch.zeros(1, len(CONTEXT)), options)[0]
    assert scores[WAIT] - scores[HOME] > 0.01 / plan.tau
    assert not none.any(), "so that the first policy is the base"


def test_days_without_a_choice_are_told() -> None:
    day = made_day([(0.0, [step(10, 1.0)])])
    with pytest.raises(DataError, match="1 days have no decision with a choice; raise cloned"):
        shown_on([day], load_parameters(), replace(PLAN, cloned=1, reach=1e-9))


def test_a_training_that_begins_with_plans(light: Regime, tmp_path: Path) -> None:
    lines: list[str] = []
    saved = [
        save_policy(tmp_path / name, train([light], load_parameters(), PLAN, report=lines.append))
        for name in ("one.npz", "two.npz")
    ]
    assert saved[0].digest == saved[1].digest
    assert any("cloning, margin 0.3: light" in line for line in lines)
    assert any("decisions of plans that cost 0." in line for line in lines), "of the base's"
    policy = load_policy(tmp_path / "one.npz")
    assert policy.training["plan"]["cloned"] == 2
    day = next(training_days([light], PLAN, 1))
    assert simulate(day, Learned(policy)).breaches == 0
