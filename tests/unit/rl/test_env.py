"""The environment of Gymnasium: its contract, its masks, its return."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rl.env import WIDTH, RoutingEnv
from rl.features import CONTEXT, OPTION, features
from rl.greedy import Greedy
from rl.regime import Regime, load_regime
from rl.simulator import Simulation, simulate
from rl.view import ACTIONS, BUY
from rl.workload import make_day
from tests.unit.rl.made_days import made_day, step

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"


@pytest.fixture
def light() -> Regime:
    return load_regime(FOLDER / "light.toml")


def test_gymnasium_finds_nothing_to_complain_of(light: Regime) -> None:
    # pyproject makes warnings errors, so those of the checker count
    check_env(RoutingEnv([light], days=5), skip_render_check=True)


def _play(env: RoutingEnv, choose: Any) -> tuple[float, dict[str, Any]]:
    total, info = 0.0, dict[str, Any]()
    over = False
    while not over:
        observation, reward, over, truncated, info = env.step(choose(env))
        assert env.observation_space.contains(observation)
        assert not truncated
        total += reward
    return total, info


def test_the_expected_cost_policys_return_is_minus_one(light: Regime) -> None:
    env = RoutingEnv([light], days=5)
    env.reset(options={"regime": 0, "day": 1})
    greedy = Greedy()

    def choose(env: RoutingEnv) -> int:
        decision = env._decision
        assert decision is not None
        return greedy.choose(decision.view, decision.mask)

    total, info = _play(env, choose)
    assert total == pytest.approx(-1.0)
    assert info["outcome"]["cost"] == simulate(make_day(light, 0, "train", 1), Greedy()).cost


def test_a_share_of_the_days_is_of_wide_ranges(light: Regime) -> None:
    def names(share: float, **options: Any) -> set[str]:
        env = RoutingEnv([light], days=5, randomised=share)
        return {env.reset(seed=seed, options=options)[1]["day"].split("/")[0] for seed in range(12)}

    assert names(0.0) == {"light"}
    assert names(0.5) == {"light", "randomised"}
    assert names(1.0) == {"randomised"}
    assert names(1.0, day=1) == {"light"}


def test_masks_are_the_guardrails(light: Regime) -> None:
    env = RoutingEnv([light], days=5)
    env.reset(seed=1)
    random = np.random.default_rng(0)

    def choose(env: RoutingEnv) -> int:
        mask = env.action_masks()
        assert mask.shape == (ACTIONS,) and mask.any()
        return int(random.choice(np.flatnonzero(mask)))

    _, info = _play(env, choose)
    assert info["outcome"]["breaches"] == 0


def test_a_masked_action_is_replaced_and_told(light: Regime) -> None:
    env = RoutingEnv([light], days=5)
    env.reset(seed=1)
    refused = int(np.flatnonzero(~env.action_masks())[0])
    info = env.step(refused)[4]
    assert isinstance(info["refused"], str)


def test_equal_seeds_give_equal_days_and_others_other_days(light: Regime) -> None:
    names = [RoutingEnv([light]).reset(seed=seed)[1]["day"] for seed in (3, 3, 4)]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("light/train/0/")


def test_features_are_finite_and_as_the_schema_says() -> None:
    simulation = Simulation(made_day([(0.0, [step(60, 6.0), step(60, 6.0)])]))
    decision = simulation.next_decision()
    assert decision is not None
    costs = Greedy().costs(decision.view, decision.mask)
    context, options = features(decision.view, decision.mask, costs)
    assert context.shape == (len(CONTEXT),) and options.shape == (ACTIONS, len(OPTION))
    assert context.size + options.size == WIDTH
    assert np.isfinite(context).all() and np.isfinite(options).all()
    at = OPTION.index
    assert options[:, at("is_allowed")].tolist() == [float(one) for one in decision.mask]
    least = min(costs)
    assert options[BUY, at("cost_over_least")] == pytest.approx(10 * (costs[BUY] - least))
    assert context[CONTEXT.index("home_room")] == pytest.approx(11.5 / 16)
