"""Effects on others: what they are of, and that a policy's score is linear in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rl.effects import EFFECTS, effects
from rl.neural import Learned
from rl.simulator import Simulation
from rl.view import BUY, FIRST_MACHINE, HOME, KEEP, WAIT, MachineView, RunView, View
from tests.unit.rl.made_days import made_day, step
from tests.unit.rl.made_policies import made_policy

SECOND = 0.30 / 3600.0  # USD of a workflow's second at priority 1


def _view(waiting: int = 2) -> View:
    """A step of 60 s and 6 GB that is asked about, and others of 90 s and 6 GB."""
    simulation = Simulation(made_day([(0.0, [step(60, 6.0), *[step(90, 6.0)] * (waiting - 1)])]))
    decision = simulation.next_decision()
    assert decision is not None and decision.view.step is not None
    return decision.view


def _told(view: View, action: int) -> dict[str, float]:
    [row] = effects(view, [action])
    return {name: float(one) for name, one in zip(EFFECTS, row, strict=True) if one}


def test_an_option_has_the_effects_that_it_is_about() -> None:
    view = _view()
    machine = MachineView("ready", 0.0, 30.0, 4.0, 2.0, 50.0, 0.0, set(), [RunView(50.0, 3.0, 1.0)])
    view = replace(view, machines=[machine, None, None])
    for action, begin in ((HOME, "home"), (FIRST_MACHINE, "machine"), (BUY, "buy"), (WAIT, "wait")):
        found = _told(view, action)
        assert len(found) > 2 and all(name.startswith(begin) for name in found), found


def test_memory_that_is_taken_is_worth_what_others_would_do_with_it() -> None:
    view = _view()
    assert view.step is not None
    share = view.step.memory_p95_gb / view.home.room_gb
    found = _told(view, HOME)
    assert found["home_memory"] == pytest.approx(SECOND * 60 * share)
    # 11.5 GB less the reserve of the head hold one of them
    assert found["home_blocked"] == pytest.approx(SECOND * 60)
    assert _told(_view(4), HOME)["home_memory"] == pytest.approx(3 * found["home_memory"])
    alone = _told(_view(1), HOME)
    assert not {"home_memory", "home_cores", "home_blocked"} & set(alone)


def test_a_decision_about_machines_has_none() -> None:
    assert not effects(replace(_view(), step=None), [KEEP]).any()


def test_a_score_is_less_by_what_effects_cost() -> None:
    simulation = Simulation(made_day([(0.0, [step(60, 6.0), step(90, 6.0)])]))
    decision = simulation.next_decision()
    assert decision is not None
    view, mask = decision.view, decision.mask
    plain = Learned(made_policy()).opinion(view, mask)
    assert plain.action == HOME and plain.scores[WAIT] > -np.inf
    weights = np.zeros(len(EFFECTS), dtype=np.float32)
    weights[EFFECTS.index("home_memory")] = 2.0
    found = Learned(made_policy(effects=weights)).opinion(view, mask)
    usd = _told(view, HOME)["home_memory"]
    assert plain.scores[HOME] - found.scores[HOME] == pytest.approx(2.0 * usd / 0.02, rel=1e-5)
    assert found.scores[WAIT] == pytest.approx(plain.scores[WAIT])
    lead = 0.02 * (plain.scores[HOME] - plain.scores[BUY])
    for share, action in ((0.99, HOME), (1.01, BUY)):
        weights[EFFECTS.index("home_memory")] = share * lead / usd
        assert Learned(made_policy(effects=weights)).choose(view, mask) == action
