"""MaskablePPO: it begins at the file's policy, keeps the masks, and its export is its network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from rl.features import CONTEXT, OPTION, features
from rl.learning.episodes import REWARD_DOLLARS, Windows
from rl.learning.network import SHARPNESS, scorer_of
from rl.learning.plan import Training
from rl.learning.ppo import PRICE_RATE, Scores, _Progress, layers_of, learner, refined
from rl.neural import Learned, residuals, weighed
from rl.parameters import Parameters, policy_of
from rl.queue_parameters import QueueParameters
from rl.regime import Regime, load_regime
from rl.simulator import Simulation
from rl.view import ACTIONS, BUY
from rl.workload import make_day
from tests.unit.rl.made_policies import PARAMETERS, made_policy

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"
PLAN = Training(seed=2, ppo_steps=128, model="network", reach=0.15)


@pytest.fixture
def windows() -> Windows:
    return Windows([load_regime(FOLDER / "busy.toml")], PARAMETERS, PLAN)


def test_gymnasium_finds_nothing_to_complain_of(windows: Windows) -> None:
    class Safe(Windows):
        """The checker takes masked actions, which the learner never does."""

        def step(self, action):  # type: ignore[no-untyped-def]
            allowed = np.flatnonzero(self.action_masks())
            return super().step(action if action in allowed else allowed[0])

    check_env(Safe([load_regime(FOLDER / "busy.toml")], PARAMETERS, PLAN), skip_render_check=True)


def test_the_expected_cost_policy_earns_nothing_against_itself(windows: Windows) -> None:
    for seed in range(5):
        windows.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            decision = windows._simulation.asked
            assert decision is not None
            action = windows._base.choose(decision.view, decision.mask)
            assert windows.action_masks()[action]
            _, reward, over, is_cut, _ = windows.step(np.int64(action))
            total += reward
            over |= is_cut
        assert total == pytest.approx(0.0, abs=0.05)


def test_a_window_is_cut_at_a_decision_and_not_over(windows: Windows) -> None:
    """So that the learner adds what the rest is worth: it sees what it decides about next."""
    cut = 0
    for seed in range(6):
        windows.reset(seed=seed)
        start, over, is_cut = windows._simulation.world.now, False, False
        while not (over or is_cut):
            assert windows._simulation.world.now < start + PLAN.horizon
            action = np.flatnonzero(windows.action_masks())[0]
            observation, _, over, is_cut, _ = windows.step(action)
        cut += is_cut
        assert not (over and is_cut)
        if is_cut:
            assert windows._simulation.world.now >= start + PLAN.horizon
            assert windows._simulation.asked is not None and observation.any()
    assert cut >= 3


def test_worse_choices_earn_less(windows: Windows) -> None:
    random, totals = np.random.default_rng(0), []
    for seed in range(12):
        windows.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action = random.choice(np.flatnonzero(windows.action_masks()))
            _, reward, over, is_cut, _ = windows.step(action)
            total += reward
            over |= is_cut
        totals.append(total)
    assert np.mean(totals) < -0.1


def _days(progress: float, randomised: float) -> set[str]:
    """Names of the regimes that windows are drawn from."""
    regimes = [load_regime(FOLDER / f"{name}.toml") for name in ("busy", "light", "high_hazard")]
    plan = replace(PLAN, randomised=randomised)
    windows = Windows(regimes, PARAMETERS, plan)
    windows.progress = progress
    return {windows.reset(seed=seed)[1]["day"].split("/")[0] for seed in range(12)}


def test_the_curriculum_goes_from_light_to_busy_days_and_to_wide_ranges() -> None:
    assert _days(0.0, 1.0) == {"light"}
    assert _days(0.5, 0.0) == {"light", "high_hazard"}
    assert _days(1.0, 0.0) == {"light", "high_hazard", "busy"}
    assert _days(1.0, 1.0) == {"randomised"}
    assert "randomised" in _days(1.0, 0.5) and len(_days(1.0, 0.5)) > 1


def test_money_has_a_price_once_more_is_spent_than_may_be(windows: Windows) -> None:
    lines: list[str] = []
    progress = _Progress([windows], PLAN, 0.0, lines.append, lambda: False)
    progress.model = learner(made_policy(), [windows], PLAN)
    told = []
    for own in (2.0, 1.05, 0.5, 0.5, 0.5):
        windows.dollars = [own, 1.0]
        progress._on_rollout_end()
        told.append(windows.price)
        assert windows.dollars == [0.0, 0.0]
    rise = PRICE_RATE * (2.0 - PLAN.most_dollars)
    assert told == pytest.approx([rise, rise, max(0.0, rise - PRICE_RATE * 0.55), 0.0, 0.0])
    assert "machines 2.000, price 0.475" in lines[0]


def test_what_is_bought_beyond_the_base_costs_its_price(windows: Windows) -> None:
    earned = {}
    for price in (0.0, 3.0):
        windows.price, windows.dollars = price, [0.0, 0.0]
        windows.reset(seed=3)
        total, over = 0.0, False
        while not over:
            # a machine wherever one may be had
            action = np.flatnonzero(windows.action_masks())[-1]
            action = BUY if windows.action_masks()[BUY] else action
            _, reward, over, is_cut, _ = windows.step(action)
            total, over = total + reward, over or is_cut
        earned[price] = total
    more = windows.dollars[0] - windows.dollars[1]
    assert more > 0
    assert earned[0.0] - earned[3.0] == pytest.approx(3.0 * more / REWARD_DOLLARS)


def test_before_learning_its_best_action_is_the_files(windows: Windows) -> None:
    policy = made_policy(5, tau=PLAN.tau, reach=PLAN.reach)
    model, learned = learner(policy, [windows], PLAN), Learned(policy)
    observation, _ = windows.reset(seed=1)
    for _ in range(30):
        decision = windows._simulation.asked
        assert decision is not None
        opinion = learned.opinion(decision.view, decision.mask)
        action, _ = model.predict(
            observation, action_masks=windows.action_masks(), deterministic=True
        )
        assert action == opinion.action
        probabilities = _logits(model, observation)
        best = [one for one in range(ACTIONS) if windows.action_masks()[one]]
        assert probabilities[best] == pytest.approx(
            SHARPNESS * np.array(opinion.scores)[best], abs=1e-3
        )
        observation, _, over, is_cut, _ = windows.step(np.int64(action))
        if over or is_cut:
            observation, _ = windows.reset()


@pytest.mark.parametrize("parameters", [PARAMETERS, QueueParameters()])
def test_without_residual_the_network_takes_what_the_base_takes(parameters: Parameters) -> None:
    policy = made_policy(tau=PLAN.tau, reach=PLAN.reach, parameters=parameters)
    network, base, asked = Scores(scorer_of(policy.layers), policy.tau), policy_of(parameters), 0
    day = make_day(load_regime(FOLDER / "busy.toml"), 2, "validation", 1)
    simulation = Simulation(day, order=base.order)
    while (decision := simulation.next_decision()) is not None:
        view, mask = decision.view, decision.mask
        costs = base.costs(view, mask)
        taken = base.choose(view, mask)
        if len(options := weighed(costs, view, policy.reach, False)) > 1:
            context, of_options = features(view, mask, costs)
            seen = torch.from_numpy(np.concatenate([context, of_options.ravel()])[None])
            with torch.no_grad():
                scores = network.forward_actor(seen)[0].numpy()
            assert max(options, key=scores.__getitem__) == taken
            asked += 1
        simulation.take(taken)
    assert asked > 50


def _logits(model: object, observation: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found = model.policy.mlp_extractor.forward_actor(torch.from_numpy(observation[None]))  # type: ignore[attr-defined]
    return np.asarray(found[0])


def test_it_ends_when_the_minutes_do() -> None:
    regimes = [load_regime(FOLDER / "light.toml")]
    policy = made_policy(3, tau=PLAN.tau, reach=PLAN.reach)
    asked: list[int] = []

    def is_over() -> bool:
        asked.append(1)
        return len(asked) >= 3

    # a hundred times what three steps are, and no update before them
    plan = replace(PLAN, ppo_steps=100_000)
    layers = refined(policy, regimes, plan, 0.0, lambda line: None, is_over=is_over)
    assert len(asked) == 3
    for (weight, bias), (other, others) in zip(layers, policy.layers, strict=True):
        assert (weight == other).all() and (bias == others).all()


def test_it_learns_and_its_export_is_its_network() -> None:
    regimes: list[Regime] = [load_regime(FOLDER / f"{name}.toml") for name in ("light", "busy")]
    policy = made_policy(None, tau=PLAN.tau, reach=PLAN.reach)
    lines: list[str] = []
    layers = refined(policy, regimes, PLAN, 0.0, lines.append)
    assert [one.shape for one, _ in layers] == [one.shape for one, _ in policy.layers]
    assert any(np.abs(weight - other).max() > 0 for (weight, _), (other, _) in
               zip(layers, policy.layers, strict=True))  # fmt: skip
    assert all(np.isfinite(weight).all() for weight, _ in layers)
    assert any("price" in line for line in lines)
    model = learner(policy, [Windows(regimes, policy.parameters, PLAN)], PLAN)
    context = np.zeros(len(CONTEXT), dtype=np.float32)
    options = np.ones((ACTIONS, len(OPTION)), dtype=np.float32)
    scorer = model.policy.mlp_extractor.scorer
    with torch.no_grad():
        wanted = scorer(torch.from_numpy(context[None]), torch.from_numpy(options[None]))[0].numpy()
    assert residuals(layers_of(model), context, options) == pytest.approx(wanted, abs=1e-6)
