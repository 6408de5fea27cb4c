"""RLlib on routing: it begins as the tuned greedy, keeps to its mask, and its export is equal."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray.rllib", reason="needs the extra rl")
import ray
import torch

from ironcliw.errors import SettingsError, TrainingError
from rl.env import WIDTH
from rl.features import CONTEXT, OPTION
from rl.greedy import Greedy
from rl.neural import Learned, residuals
from rl.policy_file import PolicyFile, load_policy
from rl.regime import load_regime
from rl.rllib.decisions import Decisions, weighed
from rl.rllib.module import NEVER, ScoringModule
from rl.rllib.numbers import RllibSettings
from rl.rllib.trainer import RllibTrainer, validation, write_policy
from rl.simulator import Simulation, simulate
from rl.view import ACTIONS
from rl.workload import make_day
from tests.unit.rl.made_policies import PARAMETERS, made_policy

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    # RLlib registers one and the same name for the environment of each algorithm
    pytest.mark.filterwarnings("ignore:.*Overriding environment rllib:UserWarning"),
]

ROOT = Path(__file__).parents[2]
LIGHT = load_regime(ROOT / "rl" / "regimes" / "light.toml")
SMALL = RllibSettings(days=3, decisions=128, environments=2, hidden=16, learning_rate=1e-3)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    # short: it becomes part of a socket's path
    folder = tempfile.mkdtemp(prefix="icw-rllib-", dir="/tmp")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def trained(
    cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RllibTrainer, list[Mapping[str, float]], Path]]:
    folder = tmp_path_factory.mktemp("rllib")
    trainer = RllibTrainer([LIGHT], SMALL, str(folder))
    told: list[Mapping[str, float]] = []
    trainer.train(2, lambda iteration, found: told.append(dict(found)))
    yield trainer, told, folder
    trainer.stop()


def _given() -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "regimes": [LIGHT.model_dump(mode="json")],
        "base": "greedy",
        "parameters": asdict(PARAMETERS),
        "reach": SMALL.reach,
        "machines": SMALL.machines,
        "seed": 0,
        "days": 2,
    }


def test_only_decisions_with_a_choice_are_asked(cluster: None) -> None:
    env = Decisions(_given())
    observation, _ = env.reset(seed=3)
    total, over = 0.0, False
    while not over:
        mask = env.action_masks()
        assert mask.sum() > 1
        assert (mask == weighed(observation, SMALL.reach, SMALL.machines)).all()
        # the cheapest, which is what the tuned greedy takes
        options = observation[len(CONTEXT) :].reshape(ACTIONS, -1)
        over_least = np.where(mask, options[:, OPTION.index("cost_over_least")], np.inf)
        observation, reward, over, _, _ = env.step(np.int64(int(over_least.argmin())))
        total += reward
    assert total == pytest.approx(-1.0), "minus the ratio of the tuned greedy to itself"


def test_what_was_not_to_be_weighed_is_refused(cluster: None) -> None:
    env = Decisions(_given())
    env.reset(seed=1)
    wrong = int(np.argmin(env.action_masks()))
    with pytest.raises(TrainingError, match=rf"took action {wrong}, and .* mask does not hold"):
        env.step(np.int64(wrong))


def test_it_learns_with_finite_losses_and_keeps_to_its_mask(
    trained: tuple[RllibTrainer, list[Mapping[str, float]], Path],
) -> None:
    trainer, told, _ = trained
    # a masked action would have ended the training: see the environment
    assert trainer.iteration == 2 and len(told) == 2
    assert all(math.isfinite(one["loss"]) and one["entropy"] > 0 for one in told)
    module = trainer.module()
    observation = torch.zeros(4, WIDTH)
    observation[:, len(CONTEXT) + OPTION.index("is_allowed")] = 1.0
    logits = module.logits(observation)
    assert (logits[:, 1:] == NEVER).all() and (logits[:, 0] != NEVER).all()


def test_what_is_exported_is_what_was_learned(
    trained: tuple[RllibTrainer, list[Mapping[str, float]], Path], tmp_path: Path
) -> None:
    trainer, _, _ = trained
    saved = write_policy(trainer, tmp_path / "policy.npz")
    policy = load_policy(tmp_path / "policy.npz")
    assert policy.digest == saved.digest
    module, learned, seen = trainer.module(), Learned(policy), 0
    simulation = Simulation(make_day(LIGHT, 5, "train", 0))
    while (decision := simulation.next_decision()) is not None:
        opinion = learned.opinion(decision.view, decision.mask)
        if opinion.context is not None and opinion.options is not None:
            seen += 1
            context, options = (torch.from_numpy(one) for one in (opinion.context, opinion.options))
            with torch.no_grad():
                inside = module.residuals(context[None], options[None])[0].numpy()
                observation = torch.cat([context, options.flatten()])
                logits = module.logits(observation[None])[0].numpy()
            outside = residuals(policy.layers, opinion.context, opinion.options)
            assert np.abs(inside - outside).max() < 1e-6
            if opinion.scores:
                found = np.array(opinion.scores)
                chosen = found > -np.inf
                assert np.abs(logits[chosen] - found[chosen]).max() < 1e-4
                assert (logits[~chosen] == NEVER).all()
        simulation.take(opinion.action)
    assert seen > 20
    assert learned.counts.changed > 0 or learned.counts.weighed > 0


@pytest.mark.parametrize("machines", [False, True])
def test_a_whole_day_by_the_learner_is_the_day_by_its_file(machines: bool) -> None:
    settings = replace(SMALL, machines=machines)
    given = {name: getattr(settings, name) for name in ("hidden", "tau", "reach", "machines")}
    env = Decisions({**_given(), "machines": machines})
    module = ScoringModule(
        observation_space=env.observation_space, action_space=env.action_space, model_config=given
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in module.scorer.parameters():
            weight.normal_(0.0, 0.3)
    policy = made_policy(
        layers=module.layers(), reach=settings.reach, tau=settings.tau, machines=machines
    )
    observation, info = env.reset(options={"regime": 0, "day": 1})
    asked, over = 0, False
    while not over:
        with torch.no_grad():
            action = int(module.logits(torch.from_numpy(observation)[None]).argmax())
        observation, _, over, _, info = env.step(np.int64(action))
        asked += 1
    learned = Learned(policy)
    outcome = simulate(make_day(LIGHT, 0, "train", 1), learned)
    assert info["outcome"] == outcome.as_dict()
    assert learned.counts.changed > 5 and asked == learned.counts.weighed


def test_before_any_step_it_is_the_tuned_greedy(cluster: None, tmp_path: Path) -> None:
    trainer = RllibTrainer([LIGHT], SMALL, str(tmp_path))
    policy = trainer.policy()
    trainer.stop()
    assert not policy.layers[-1][0].any() and not policy.layers[-1][1].any()
    assert validation(policy, [LIGHT], 3, None) == 1.0
    learned, greedy = Learned(policy), Greedy(policy.parameters)
    simulation = Simulation(make_day(LIGHT, 5, "train", 1))
    while (decision := simulation.next_decision()) is not None:
        action = learned.choose(decision.view, decision.mask)
        assert action == greedy.choose(decision.view, decision.mask)
        simulation.take(action)


def test_it_goes_on_where_it_was(
    trained: tuple[RllibTrainer, list[Mapping[str, float]], Path],
) -> None:
    trainer, _, folder = trained
    with pytest.raises(SettingsError, match="holds a training with other values of hidden; give"):
        RllibTrainer([LIGHT], replace(SMALL, hidden=8), str(folder))
    again = RllibTrainer([LIGHT], SMALL, str(folder))
    try:
        assert again.iteration == 2
        for own, other in zip(again.module().layers(), trainer.module().layers(), strict=True):
            assert (own[0] == other[0]).all() and (own[1] == other[1]).all()
        again.train(3, lambda iteration, found: None)
        assert again.iteration == 3
    finally:
        again.stop()


def test_held_out_regimes_and_wrong_numbers_are_refused() -> None:
    bursty = load_regime(ROOT / "rl" / "regimes" / "bursty.toml")
    with pytest.raises(SettingsError, match="regime 'bursty' is held out"):
        RllibTrainer([bursty], SMALL, "/nowhere")
    with pytest.raises(SettingsError, match=r"decisions is 0; give 1 or more"):
        replace(SMALL, decisions=0)
    with pytest.raises(SettingsError, match=r"tau is 2.0; it must lie between 0 and 1"):
        replace(SMALL, tau=2.0)
    with pytest.raises(SettingsError, match=r"randomised is 1.5; give a share from 0 to 1"):
        replace(SMALL, randomised=1.5)


@pytest.mark.slow
def test_it_learns_what_is_better_than_a_bad_start(cluster: None, tmp_path: Path) -> None:
    # believed dear by far, machines are never bought: there is much to be learned
    bad = replace(PARAMETERS, tail_seconds=9000.0, optimism=0.2, wait_weight=0.3)
    settings = replace(
        SMALL,
        days=40,
        decisions=3000,
        environments=8,
        hidden=32,
        parameters=bad,
        reach=0.3,
        randomised=0.0,
    )
    trainer = RllibTrainer([LIGHT], settings, str(tmp_path))
    trainer.train(30, lambda iteration, found: None, every=30)
    policy: PolicyFile = trainer.policy()
    trainer.stop()
    assert validation(policy, [LIGHT], 20, None) < 0.95
