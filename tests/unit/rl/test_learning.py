"""Learning: labels that are true, networks that fit them, files that can be had again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ironcliw.errors import SettingsError
from rl.__main__ import main
from rl.features import CONTEXT, OPTION
from rl.greedy import Greedy
from rl.learning.days import training_days, validation_days
from rl.learning.labels import Labels, collect, futures, stacked
from rl.learning.network import Scorer, averaged, fit, scorer_of
from rl.learning.plan import Training
from rl.learning.randomised import randomised
from rl.learning.selection import guard_of
from rl.learning.train import train
from rl.neural import Learned, residuals
from rl.parameters import load_parameters, written
from rl.policy_file import load_policy, save_policy
from rl.queue_parameters import QueueParameters
from rl.regime import Regime, load_regime
from rl.simulator import Simulation, simulate
from rl.view import BUY, HOME, WAIT
from tests.unit.rl.made_days import Prefer, made_day, step
from tests.unit.rl.made_policies import made_policy

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"
SMALL = Training(
    seed=4, rounds=1, decisions=60, members=2, epochs=2, width=8, validation=2, ppo_steps=0,
    machines=True,
)  # fmt: skip


@pytest.fixture
def light() -> Regime:
    return load_regime(FOLDER / "light.toml")


# labels


def test_futures_are_what_the_options_cost() -> None:
    # 600 s at home at 0.30 an hour, or 100 s of start and 690 s of work away, which is paid for too
    simulation = Simulation(made_day([(0.0, [step(600.0)])], deadline=10_000.0))
    while (decision := simulation.next_decision()) is not None and decision.task is None:
        simulation.take(Greedy().choose(decision.view, decision.mask))
    stay = Prefer(lambda view: (WAIT,))
    (home, free), (away, machines) = futures(simulation, stay, [HOME, BUY], 800.0)
    assert (home, free) == pytest.approx((0.30 * 600 / 3600, 0.0))
    assert machines == pytest.approx(0.0638 * 795 / 3600)
    assert away == pytest.approx(machines + 0.30 * 795 / 3600)
    assert simulation.asked is decision  # as it was


def test_labels_are_differences_from_the_policys_own_choice(light: Regime) -> None:
    greedy = Greedy(load_parameters())
    found = collect(training_days([light], SMALL, 0), greedy, greedy, SMALL)
    assert len(found) == SMALL.decisions
    assert all(label.cost[0] == label.dollars[0] == label.over[0] == 0.0 for label in found)
    labels = stacked(found, SMALL.alternatives)
    assert labels.options.shape == (60, 4, len(OPTION)) and labels.there[:, 1].all()
    assert np.isfinite(labels.cost).all() and np.abs(labels.cost).max() > 0
    again = stacked(collect(training_days([light], SMALL, 0), greedy, greedy, SMALL), 3)
    assert np.array_equal(again.cost, labels.cost)


# networks


def _synthetic(count: int) -> Labels:
    """Two options; the second costs 0.1 USD less where the first context feature is above 0."""
    random = np.random.default_rng(1)
    context = random.normal(size=(count, len(CONTEXT))).astype(np.float32)
    options = random.normal(size=(count, 2, len(OPTION))).astype(np.float32)
    cost = np.zeros((count, 2), dtype=np.float32)
    cost[:, 1] = np.where(context[:, 0] > 0, -0.1, 0.1) + random.normal(0, 0.1, count)
    options[:, :, 0] = [0.0, 1.0]
    over = np.tile(np.array([0.0, 0.02], dtype=np.float32), (count, 1))
    there = np.ones((count, 2), dtype=np.bool_)
    return Labels(context, options, over, there, cost, 0 * cost, np.arange(count) // 20)


def test_a_network_begins_at_nothing_and_learns_what_options_cost() -> None:
    labels = _synthetic(6000)
    scorer = Scorer([16, 16])
    context, options = torch.from_numpy(labels.context), torch.from_numpy(labels.options)
    assert not scorer(context, options).any()
    plan = replace(SMALL, epochs=30, width=16, batch=32, rate=3e-3, decay=0.0)
    fitted, before, after = fit(labels, plan, 0.0, 0)
    assert after < 0.9 * before
    with torch.no_grad():
        scores = fitted(context, options) - torch.from_numpy(labels.over / plan.tau)
    takes_second = (scores[:, 1] > scores[:, 0]).numpy()
    assert (takes_second == (labels.context[:, 0] > 0)).mean() > 0.9


def test_numpy_equals_torch() -> None:
    random = np.random.default_rng(2)
    scorer = scorer_of(made_policy(6).layers)
    context = random.normal(size=(50, len(CONTEXT))).astype(np.float32)
    options = random.normal(size=(50, 5, len(OPTION))).astype(np.float32)
    with torch.no_grad():
        wanted = scorer(torch.from_numpy(context), torch.from_numpy(options)).numpy()
    layers = scorer.layers()
    found = [residuals(layers, one, some) for one, some in zip(context, options, strict=True)]
    assert np.array(found) == pytest.approx(wanted, abs=1e-6, rel=1e-6)


def test_an_average_is_that_of_its_members() -> None:
    random = np.random.default_rng(2)
    members = [made_policy(seed).layers for seed in (1, 2, 3)]
    context = random.normal(size=len(CONTEXT)).astype(np.float32)
    options = random.normal(size=(5, len(OPTION))).astype(np.float32)
    each = [residuals(layers, context, options) for layers in members]
    assert residuals(averaged(members), context, options) == pytest.approx(
        np.mean(each, axis=0), abs=1e-5
    )


def test_a_guard_lets_training_pass_and_little_else(light: Regime) -> None:
    greedy = Greedy(load_parameters())
    plan = replace(SMALL, decisions=400)
    labels = stacked(collect(training_days([light], plan, 0), greedy, greedy, plan), 3)
    learned = Learned(made_policy(guard=guard_of(labels)))
    rows = zip(labels.context, labels.options, labels.there, strict=True)
    outside = [bool(learned.outside(one, some[there])) for one, some, there in rows]
    assert np.mean(outside) < 0.01
    assert learned.outside(labels.context[0] + 3.0, labels.options[0, :1])
    shuffled = labels.context[0].copy()
    shuffled[:5] = 1.0  # of every kind at once: each feature within its range
    assert "combination" in learned.outside(shuffled, labels.options[0, :1])


# days


def test_randomised_regimes_differ_and_can_be_had_again() -> None:
    assert randomised(1, 5) == randomised(1, 5)
    heads = [randomised(1, number).home.memory_gb for number in range(200)]
    assert 12.0 <= min(heads) < 16.0
    assert 100.0 < max(heads) <= 128.0
    costs = [randomised(1, number).costs for number in range(200)]
    assert min(one.day_dollars for one in costs) < 0.4
    assert any(one.day_dollars >= 10.0 for one in costs), "a cap by the month alone is 25 USD"
    assert any(one.month_dollars < 2.0 * one.day_dollars for one in costs)
    loads = [sum(randomised(1, number).arrivals.workflows_per_day) / 2 for number in range(200)]
    assert min(loads) < 10 < 40 < max(loads) <= 48


def test_days_of_training_are_no_days_of_validation(light: Regime) -> None:
    days = training_days([light], SMALL, 0)
    names = {next(days).name for _ in range(10)}
    known = {day.name for some in validation_days([light], SMALL).values() for day in some}
    assert len(known) == 2 * SMALL.validation
    assert not names & known


# the whole


def test_a_training_can_be_had_again_and_used(light: Regime, tmp_path: Path) -> None:
    lines: list[str] = []
    saved = [
        save_policy(tmp_path / name, train([light], load_parameters(), SMALL, report=lines.append))
        for name in ("one.npz", "two.npz")
    ]
    assert saved[0].digest == saved[1].digest
    policy = load_policy(tmp_path / "one.npz")
    assert policy.training["labelled"] == 60 and policy.training["is_complete"]
    assert policy.training["regimes"] == {"light": light.digest()}
    assert any("60 decisions labelled" in line for line in lines)
    day = next(training_days([light], SMALL, 1))
    assert simulate(day, Learned(policy)).breaches == 0


def test_the_command_writes_a_file_and_evaluate_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "plan.toml"
    config.write_text(
        "[training]\nrounds = 1\ndecisions = 40\nmembers = 1\nepochs = 1\nwidth = 8\n"
        "validation = 2\nppo_steps = 0\nmargins = [0.5]\n"
    )
    regime, out = str(FOLDER / "light.toml"), str(tmp_path / "mine.npz")
    base = tmp_path / "base.toml"
    base.write_text(written(QueueParameters(order_left=1.5), {}, "made"))
    words = ["train", "--regime", regime, "--config", str(config), "--base", str(base)]
    assert main([*words, "--out", out]) == 0
    policy = load_policy(Path(out))
    assert policy.parameters == QueueParameters(order_left=1.5)
    assert policy.digest in capsys.readouterr().out
    assert main(["evaluate", "--regime", regime, "--days", "3", "--policy", out]) == 0
    assert "learned: mine" in capsys.readouterr().out


def test_what_is_held_out_is_not_learned_from(tmp_path: Path) -> None:
    held_out = load_regime(FOLDER / "bursty.toml")
    with pytest.raises(SettingsError, match="'bursty' is held out"):
        train([held_out], load_parameters(), SMALL)
    with pytest.raises(SettingsError, match="no regime to learn from"):
        train([], load_parameters(), SMALL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nlayers = 3", "training has no value 'layers'; it has alternatives, batch"),
        ("[training]\nrounds = 1.5", "rounds is 1.5; it must be a whole number"),
        ("[training]\nmachines = 1", "machines is 1; it must be true or false"),
        ("[training]\ntau = 'much'", "tau is 'much'; it must be a number"),
        ("[training]\nmargins = 1", "margins is 1; it must be a list of numbers"),
        ("[training]\nmargins = []", r"margins is \[\]; give one number from 0 at the least"),
        ("[training]\nmargins = [0.5, -1.0]", r"margins is \[0.5, -1.0\]; give one number"),
        ("[training]\ntau = 0", "tau is 0; give a number above 0"),
        ("[training]\nminutes = nan", "minutes is nan; give a number from 0"),
        ("[training]\nmembers = 0", "members is 0; give 1 or more"),
        ("training = 3", r"has no table \[training\]"),
        ("[training", "is not TOML"),
    ],
)
def test_plans_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        Training.load(path)
