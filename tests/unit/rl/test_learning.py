"""Learning: labels that are true, networks that fit them, files that can be had again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import Generator

from ironcliw.errors import SettingsError
from rl.__main__ import main
from rl.effects import EFFECTS
from rl.features import CONTEXT, OPTION, Floats
from rl.greedy import Greedy
from rl.learning.days import training_days, validation_days
from rl.learning.labels import Labels, collect, futures, own_believed, stacked, targets
from rl.learning.network import Scorer, averaged, fit, scorer_of
from rl.learning.plan import Training
from rl.learning.randomised import randomised
from rl.learning.ridge import fit_effects
from rl.learning.selection import Confirmation, Verdict, confirmation
from rl.learning.start import guard_of
from rl.learning.train import parts_of, shrunk, train
from rl.neural import Learned, residuals
from rl.parameters import Base, load_parameters, written
from rl.policy_file import PolicyFile, load_policy, save_policy
from rl.queue_aware import QueueAware
from rl.queue_parameters import QueueParameters
from rl.regime import Regime, load_regime
from rl.simulator import Simulation, simulate
from rl.statistics import Interval
from rl.view import BUY, HOME, KEEP, WAIT
from rl.work import Day
from tests.unit.rl.made_days import Prefer, made_day, step
from tests.unit.rl.made_policies import made_policy

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"
SMALL = Training(
    seed=4, rounds=1, decisions=60, members=2, epochs=2, width=8, validation=2, ppo_steps=0,
    machines=True, confirmation=2, reach=0.15, trust=0.0,
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
    home, away = futures(simulation, stay, [HOME, BUY], 800.0)
    assert (home.cost, home.dollars) == pytest.approx((0.30 * 600 / 3600, 0.0))
    assert away.dollars == pytest.approx(0.0638 * 795 / 3600)
    assert away.cost == pytest.approx(away.dollars + 0.30 * 795 / 3600)
    assert (home.own, away.own) == pytest.approx((home.cost, 0.30 * 795 / 3600))
    assert simulation.asked is decision  # as it was
    # with true beliefs a cut changes nothing: what is left is counted
    cut = futures(simulation, stay, [HOME, BUY], 300.0)
    assert [one.cost for one in cut] == pytest.approx([home.cost, away.cost], abs=2e-3)
    # a dollar that the day could have used later counts for more
    dear = futures(simulation, stay, [HOME, BUY], 800.0, 1.5)[1]
    assert dear.cost == pytest.approx(away.cost + 0.5 * away.dollars)


@pytest.mark.parametrize(("deadline", "chance"), [(600.0, 0.5), (690.0, 0.269), (510.0, 0.731)])
def test_a_deadline_is_missed_by_a_chance_in_labels(deadline: float, chance: float) -> None:
    simulation = Simulation(made_day([(0.0, [step(600.0)])], deadline=deadline))
    while (decision := simulation.next_decision()) is not None and decision.task is None:
        simulation.take(Greedy().choose(decision.view, decision.mask))
    [home] = futures(simulation, Prefer(lambda view: (WAIT,)), [HOME], 800.0)
    assert home.cost == pytest.approx(0.30 * 600 / 3600 + 0.10 * chance, abs=1e-4)


def test_branches_go_on_with_typical_machines(light: Regime) -> None:
    day = next(training_days([light], SMALL, 0))
    typical = replace(day, is_typical=True)
    assert {typical.boot_seconds(0, 1, 60.0 * one) for one in range(20)} == {day.boot_median}
    assert {typical.speed(1, 0, 60.0 * one) for one in range(20)} == {1.0}
    assert len({day.boot_seconds(0, 1, 60.0 * one) for one in range(20)}) > 10
    assert len({day.speed(1, 0, 60.0 * one) for one in range(20)}) > 10


@pytest.mark.parametrize("base", [Greedy(load_parameters()), QueueAware()])
def test_a_bases_cost_is_its_own_workflows_and_that_of_others(base: Base) -> None:
    simulation = Simulation(made_day([(0.0, [step(60, 6.0), step(90, 6.0)])]), order=base.order)
    decision = simulation.next_decision()
    assert decision is not None and decision.view.step is not None
    view, mask = decision.view, decision.mask
    costs = base.costs(view, mask)
    own = own_believed(base, view, mask, costs)
    assert own[HOME] > 0 and own[KEEP] == 0
    twice = replace(view, step=replace(decision.view.step, priority=2.0))
    grown = base.costs(twice, mask)[HOME] - costs[HOME]
    assert grown == pytest.approx(own[HOME], rel=0.02)  # which is of priority 1


def test_labels_are_differences_from_the_policys_own_choice(light: Regime) -> None:
    greedy = Greedy(load_parameters())
    found = collect(training_days([light], SMALL, 0), greedy, greedy, SMALL)
    assert len(found) == SMALL.decisions
    assert all(label.cost[0] == label.dollars[0] == label.over[0] == 0.0 for label in found)
    assert all(label.own[0] == label.own_believed[0] == 0.0 for label in found)
    labels = stacked(found, SMALL.alternatives)
    assert labels.options.shape == (60, 4, len(OPTION)) and labels.there[:, 1].all()
    assert (
        labels.effects.shape == (60, 4, len(EFFECTS)) and labels.effects.any(axis=(0, 1)).sum() > 9
    )
    assert np.isfinite(labels.cost).all() and np.abs(labels.cost).max() > 0
    again = stacked(collect(training_days([light], SMALL, 0), greedy, greedy, SMALL), 3)
    assert np.array_equal(again.cost, labels.cost)


# networks


def _synthetic(count: int, noise: Callable[[Generator], Floats] | None = None) -> Labels:
    """Two options; the second costs 0.1 USD less where the first context feature is above 0.

    With a noise it costs that, whatever the features say.
    """
    random = np.random.default_rng(1)
    context = random.normal(size=(count, len(CONTEXT))).astype(np.float32)
    options = random.normal(size=(count, 2, len(OPTION))).astype(np.float32)
    cost = np.zeros((count, 2), dtype=np.float32)
    if noise is None:
        cost[:, 1] = np.where(context[:, 0] > 0, -0.1, 0.1) + random.normal(0, 0.1, count)
    else:
        cost[:, 1] = noise(random)
    options[:, :, 0] = [0.0, 1.0]
    effects = 0.01 * random.normal(size=(count, 2, len(EFFECTS))).astype(np.float32)
    effects[:, :, 0] = [0.0, 0.01]
    over = np.tile(np.array([0.0, 0.02], dtype=np.float32), (count, 1))
    return Labels(
        context=context,
        options=options,
        effects=effects,
        over=over,
        there=np.ones((count, 2), dtype=np.bool_),
        cost=cost,
        dollars=0 * cost,
        own=0.5 * cost,
        own_believed=0.25 * over,
        day=np.arange(count) // 20,
    )


def _skewed(random: Generator) -> Floats:
    """One in ten options costs 0.35 USD more, the others 0.02 less: +0.017 on average."""
    rare = random.random(6000) < 0.1
    return np.where(rare, 0.35, -0.02) + random.normal(0, 0.005, 6000).astype(np.float32)


def test_what_is_learned_is_a_mean_though_most_labels_lie_on_the_other_side() -> None:
    labels = _synthetic(6000, _skewed)
    assert np.median(labels.cost[:, 1]) < -0.015 and labels.cost[:, 1].mean() > 0.01
    plan = replace(SMALL, epochs=10, width=8, batch=64, rate=3e-3)
    scorer, _, _ = fit(labels, plan, 0.0, 0)
    context, options = torch.from_numpy(labels.context), torch.from_numpy(labels.options)
    with torch.no_grad():
        scores = scorer(context, options) - torch.from_numpy(labels.over / plan.tau)
    believed = plan.tau * (scores[:, 0] - scores[:, 1]).mean().item()
    assert believed == pytest.approx(float(labels.cost[:, 1].mean()), abs=0.01)
    beyond = targets(labels, plan, 0.0) - (labels.over - labels.over[:, :1])
    found = fit_effects(labels, beyond)
    told = (labels.effects[:, 1] - labels.effects[:, 0]) @ found.weights + 0.02
    assert told.mean() == pytest.approx(float(labels.cost[:, 1].mean()), abs=0.005)


def test_targets_are_cut_far_out_and_trust_the_base_with_what_is_its_own() -> None:
    labels = _synthetic(40)
    labels.cost[0, 1], labels.cost[1, 1] = 0.4, 9.0
    plain = targets(labels, replace(SMALL, winsor=0.5), 0.0)
    assert plain[0, 1] == pytest.approx(0.4) and plain[1, 1] == 0.5
    trusting = targets(labels, replace(SMALL, winsor=0.5, trust=1.0), 0.0)
    wanted = labels.cost - labels.own + labels.own_believed
    assert trusting[2:] == pytest.approx(wanted[2:], abs=1e-6)
    labels.there[3, 1] = False
    assert targets(labels, SMALL, 0.0)[3, 1] == 0.0


def test_ridge_finds_what_effects_cost_and_nothing_in_noise() -> None:
    random, labels = np.random.default_rng(3), _synthetic(6000)
    true = np.zeros(len(EFFECTS))
    true[[1, 5, 9]] = 3.0, -2.0, 1.0
    effects = labels.effects[:, 1] - labels.effects[:, 0]
    beyond = np.zeros((6000, 2))
    beyond[:, 1] = effects @ true + random.normal(0, 0.16, 6000)
    found = fit_effects(labels, beyond)
    assert found.explained > 0.02
    assert found.weights[[1, 5, 9]] == pytest.approx(true[[1, 5, 9]], rel=0.35)
    beyond[:, 1] = random.standard_t(3, 6000) * 0.1
    none = fit_effects(labels, beyond)
    assert none.explained == 0.0 and not none.weights.any() and none.strength == np.inf


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
    guard = guard_of(labels.context, labels.options[labels.there])
    learned = Learned(made_policy(guard=guard))
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
    assert policy.training["is_confirmed"] != policy.is_silent
    assert any("60 decisions labelled" in line for line in lines)
    day = next(training_days([light], SMALL, 1))
    assert simulate(day, Learned(policy)).breaches == 0


@pytest.mark.parametrize("high", [0.999, 1.0])
def test_what_is_not_confirmed_on_fresh_days_decides_as_its_base(
    light: Regime, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen as the best on days of validation, by which nothing is proven."""
    asked: list[set[str]] = []

    def told(policy: PolicyFile, days: Mapping[str, Sequence[Day]]) -> Confirmation:
        asked.append({day.name for some in days.values() for day in some})
        return Confirmation(Interval(0.95, 0.9, high), 2)

    chosen = Verdict({"light": 0.9}, 1.0, 0.0, 0.9)
    monkeypatch.setattr("rl.learning.train.judged", lambda *given: chosen)
    monkeypatch.setattr("rl.learning.train.confirmed", told)
    # of few labels ridge learns nothing, a network something
    plan = replace(
        SMALL, rounds=2, decisions=12, randomised=0.0, horizon=600.0, margins=(0.0,),
        shrinks=(1.0,), model="network",
    )  # fmt: skip
    lines: list[str] = []
    policy = train([light], load_parameters(), plan, report=lines.append)
    assert policy.is_silent == (high == 1.0)
    assert policy.training["is_confirmed"] == (high < 1.0)
    assert policy.training["confirmation"] == {"mean": 0.95, "low": 0.9, "high": high, "days": 2}
    assert any("decides as the base does" in line for line in lines) == policy.is_silent
    known = {day.name for some in validation_days([light], plan).values() for day in some}
    assert len(asked) == 2 and not asked[0] & asked[1] and not (asked[0] | asked[1]) & known
    day = next(training_days([light], SMALL, 1))
    if policy.is_silent:
        assert simulate(day, Learned(policy)) == simulate(day, Greedy(load_parameters()))


def test_a_confirmation_is_an_interval_over_paired_days() -> None:
    random = np.random.default_rng(4)
    base = {name: np.exp(random.normal(0, 1, (200, 3))) for name in ("light", "busy")}
    noise = {name: np.exp(random.normal(0, 0.1, (200, 3))) for name in base}
    own = {name: 0.9 * base[name] * noise[name] for name in base}
    found = confirmation(own, base)
    assert found.holds and found.days == 200
    assert found.ratio.low < 0.9 < found.ratio.high < 0.95
    small = confirmation({name: 0.99 * base[name] * noise[name] for name in base}, base)
    assert small.ratio.mean < 1.0 < small.ratio.high and not small.holds


def test_a_share_of_what_was_learned() -> None:
    policy = made_policy(3, effects=np.ones(len(EFFECTS), dtype=np.float32))
    half = shrunk(policy, 0.5)
    context = np.ones(len(CONTEXT), dtype=np.float32)
    options = np.ones((2, len(OPTION)), dtype=np.float32)
    assert residuals(half.layers, context, options) == pytest.approx(
        0.5 * residuals(policy.layers, context, options), abs=1e-6
    )
    assert half.effects is not None and (half.effects == 0.5).all()
    plan = replace(SMALL, margins=(0.0, 0.3), shrinks=(0.5, 1.0))
    tried = [(one.margin, float(one.effects[0])) for one in parts_of(policy, plan)]  # type: ignore[index]
    assert tried == [(0.0, 0.5), (0.3, 0.5), (0.0, 1.0), (0.3, 1.0)]


def test_the_command_writes_a_file_and_evaluate_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "plan.toml"
    config.write_text(
        "[training]\nrounds = 1\ndecisions = 40\nmembers = 1\nepochs = 1\nwidth = 8\n"
        "validation = 2\nconfirmation = 2\nppo_steps = 0\nmargins = [0.5]\n"
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


def test_a_quick_training_is_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Training] = []

    def trained(regimes: object, parameters: object, plan: Training, **_: object) -> PolicyFile:
        given.append(plan)
        return made_policy()

    monkeypatch.setattr("rl.learning.train.train", trained)
    assert main(["train", "--quick", "--seed", "3", "--out", str(tmp_path / "one.npz")]) == 0
    [plan] = given
    assert (plan.seed, plan.validation, plan.confirmation) == (3, 4, 8)
    assert plan.decisions < Training().decisions / 10


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
        ("[training]\nshrinks = []", r"shrinks is \[\]; give one number from 0 at the least"),
        ("[training]\nmodel = 3", "model is 3; it must be text"),
        ("[training]\nmodel = 'tree'", "model is 'tree'; it must be one of effects, network"),
        ("[training]\nppo_steps = 9", "ppo_steps is 9, and PPO goes on from a network; set model"),
        ("[training]\ncloned = 9", "cloned is 9, and a network is fitted to plans; set model"),
        ("[training]\nppo_steps = -9", "ppo_steps is -9; give 0 or more"),
        ("[training]\nseed = -1", "seed is -1; give 0 or more"),
        ("[training]\nhuber = 1.5", "training has no value 'huber'"),
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
