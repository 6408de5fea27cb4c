"""The learned policy in numpy: where it begins, what limits it, what it needs."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rl.features import CONTEXT, OPTION
from rl.greedy import Greedy
from rl.neural import MACHINES_OVER, Learned, Opinion, overs, residuals, weighed
from rl.parameters import Parameters, load_parameters, policy_of
from rl.policy_file import INPUTS, Guard, Layer, save_policy
from rl.queue_parameters import QueueParameters
from rl.regime import load_regime
from rl.simulator import Decision, Simulation, simulate
from rl.view import BUY, HOME, KEEP, PREWARM, WAIT
from rl.work import Day
from rl.workload import make_day
from tests.unit.rl.made_days import made_day, step
from tests.unit.rl.made_policies import made_policy, wide_guard

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"


def _busy(number: int) -> Day:
    return make_day(load_regime(FOLDER / "busy.toml"), 3, "validation", number)


def _decision() -> Decision:
    simulation = Simulation(made_day([(0.0, [step(60, 6.0), step(60, 6.0)])]))
    decision = simulation.next_decision()
    assert decision is not None
    return decision


def _preferring(action: int, bonus: float) -> tuple[Layer, ...]:
    """A network that adds a bonus to one action."""
    weight = np.zeros((INPUTS, 1), dtype=np.float32)
    weight[len(CONTEXT) + action] = bonus
    return ((weight, np.zeros(1, dtype=np.float32)),)


def _opinion(decision: Decision, **changes: object) -> Opinion:
    return Learned(made_policy(**changes)).opinion(decision.view, decision.mask)


def _within(first: int, most: float) -> Guard:
    """A guard whose features from one on were all the same in training."""
    low, high = wide_guard().low, wide_guard().high
    low[first:] = high[first:] = most
    return replace(wide_guard(), low=low, high=high)


@pytest.mark.parametrize("parameters", [load_parameters(), QueueParameters(order_left=1.3)])
@pytest.mark.parametrize("number", range(3))
def test_without_residual_it_is_its_base(number: int, parameters: Parameters) -> None:
    learned = Learned(made_policy(parameters=parameters))
    assert simulate(_busy(number), learned) == simulate(_busy(number), policy_of(parameters))
    assert learned.counts.weighed > 20
    assert learned.counts.changed == learned.counts.outside == 0


def test_a_bonus_changes_the_choice_once_it_passes_cost_and_margin() -> None:
    decision = _decision()
    plain = _opinion(decision)
    assert plain.action == plain.base == HOME
    lead = plain.scores[HOME] - plain.scores[WAIT]
    assert 0 < lead < 0.15 / 0.02
    below, above = _preferring(WAIT, lead + 0.4), _preferring(WAIT, lead + 0.6)
    assert _opinion(decision, layers=below, margin=0.5).action == HOME
    changed = _opinion(decision, layers=above, margin=0.5)
    assert (changed.action, changed.base) == (WAIT, HOME)


def test_options_out_of_reach_are_not_weighed() -> None:
    decision = _decision()
    lead = _opinion(decision).costs[WAIT] - _opinion(decision).costs[HOME]
    found = _opinion(decision, layers=_preferring(WAIT, 1e4), reach=0.9 * lead)
    assert found.action == HOME
    assert WAIT not in weighed(found.costs, decision.view, 0.9 * lead, False)
    assert WAIT in weighed(found.costs, decision.view, 1.1 * lead, False)


def test_refused_actions_are_never_taken() -> None:
    for action in (BUY, WAIT, PREWARM):
        learned = Learned(made_policy(layers=_preferring(action, 1e4), reach=100.0, machines=True))
        assert simulate(_busy(0), learned).breaches == 0  # take() raises where one is refused


def test_machines_may_be_bought_early_though_their_cost_says_no() -> None:
    simulation = Simulation(_busy(0))
    while (decision := simulation.next_decision()) is not None and decision.view.step is not None:
        simulation.take(Greedy().choose(decision.view, decision.mask))
    assert decision is not None
    bonus = _preferring(PREWARM, MACHINES_OVER / 0.02 + 0.1)
    assert _opinion(decision, layers=bonus).action == KEEP  # unless the file says otherwise
    found = _opinion(decision, layers=bonus, machines=True)
    assert (found.action, found.base) == (PREWARM, KEEP)
    assert max(one for one in overs(found.costs, decision.view)) == MACHINES_OVER


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        (_within(0, 0.0), "the context lies"),
        (
            _within(len(CONTEXT), 0.0),
            "an option lies",
        ),
        (replace(wide_guard(), limit=1e-3), "a combination that training has not seen"),
    ],
)
def test_a_view_unlike_training_is_left_to_the_greedy_policy(guard: object, message: str) -> None:
    decision = _decision()
    learned = Learned(made_policy(layers=_preferring(WAIT, 1e4), guard=guard))
    found = learned.opinion(decision.view, decision.mask)
    assert found.action == HOME and message in found.outside
    assert learned.counts.outside == 1 and learned.counts.changed == 0


def test_what_is_no_number_is_left_to_the_greedy_policy() -> None:
    decision = _decision()
    decision.view.money.boot_seconds = math.nan
    decision.reasons[BUY] = "as its cost is no number"
    learned = Learned(made_policy(layers=_preferring(WAIT, 1e4)))
    assert learned.choose(decision.view, decision.mask) == HOME
    assert learned.counts.outside == 1


def test_the_first_layer_is_applied_to_context_and_option_together() -> None:
    random = np.random.default_rng(0)
    layers = made_policy(5).layers
    context = random.normal(size=len(CONTEXT)).astype(np.float32)
    options = random.normal(size=(4, len(OPTION))).astype(np.float32)
    hidden = np.concatenate([np.tile(context, (4, 1)), options], axis=1)
    for number, (weight, bias) in enumerate(layers):
        hidden = (np.maximum(hidden, 0) if number else hidden) @ weight + bias
    assert residuals(layers, context, options) == pytest.approx(hidden[:, 0], abs=1e-5)


@pytest.mark.parametrize("parameters", [load_parameters(), QueueParameters()])
def test_it_decides_without_torch_within_a_millisecond(
    tmp_path: Path, parameters: Parameters
) -> None:
    path = tmp_path / "one.npz"
    save_policy(path, made_policy(1, margin=1.0, parameters=parameters))
    script = f"""
import sys, time
from pathlib import Path
from rl.neural import Learned
from rl.regime import load_regime
from rl.simulator import Simulation
from rl.workload import make_day
simulation = Simulation(make_day(load_regime(Path({str(FOLDER / "busy.toml")!r})), 3, "test", 1))
learned = Learned(Path({str(path)!r}))
seconds = []
while (decision := simulation.next_decision()) is not None:
    view, mask = decision.view, decision.mask
    begun = time.process_time()
    action = learned.choose(view, mask)
    seconds.append(time.process_time() - begun)
    simulation.take(action)
heavy = ("torch", "ray", "gymnasium", "stable_baselines3")
absent = [name for name in heavy if name in sys.modules]
timed = sorted(seconds[20:])  # the first ones load what the others use
print(absent, len(seconds), timed[int(0.99 * len(timed))])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    found, rest = done.stdout.split("] ")
    count, slow = rest.split()
    assert found == "[" and int(count) > 50
    assert float(slow) < 1e-3
