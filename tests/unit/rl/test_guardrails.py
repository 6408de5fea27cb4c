"""What is refused, and that it holds whatever a policy does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironcliw.errors import SettingsError
from rl.guardrails import Limits, checked, mask_of, must_stop, refusals
from rl.regime import load_regime
from rl.simulator import Simulation, simulate
from rl.view import (
    ACTIONS,
    BUY,
    FIRST_MACHINE,
    FIRST_STOP,
    HOME,
    KEEP,
    PREWARM,
    WAIT,
    HomeView,
    MachineView,
    MoneyView,
    StepView,
    View,
)
from rl.workload import make_day

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"
LIMITS = Limits()


def _step(**values: Any) -> StepView:
    return StepView(
        **{
            "number": 0, "kind": "function", "memory_mean_gb": 3.0, "memory_p95_gb": 4.0,
            "home_seconds": 100.0, "cloud_seconds": 120.0, "duration_sigma": 0.3, "cold_home": 0.0,
            "cold_cloud": 5.0, "cores": 2.0, "transfer_seconds": 1.0, "checkpointable": False,
            "private": False, "priority": 1.0, "deadline_in": 500.0, "after_seconds": 10.0,
            "waited": 0.0, "spot_losses": 0, "fan_out": 1, **values,
        }
    )  # fmt: skip


def _machine(**values: Any) -> MachineView:
    return MachineView(
        **{
            "state": "ready", "ready_in": 0.0, "free_gb": 30.0, "cores": 4.0, "cores_wanted": 0.0,
            "busy_seconds": 0.0, "idle_seconds": 10.0, "warm": set(), **values,
        }
    )  # fmt: skip


def _view(
    step: StepView | None,
    machine: MachineView | None = None,
    *,
    free_gb: float = 8.0,
    day_left: float = 0.4,
    month_left: float = 12.0,
    committed: float = 0.0,
) -> View:
    home = HomeView(16.0, 9.0, free_gb, 8.0, 0.0, [], "")
    money = MoneyView(0.0638, day_left, month_left, committed, 0.02, 90.0, float("inf"), 0.30, 0.10)
    return View(0.0, step, home, [machine, None, None], money, 1, 1, float("inf"))


def _allowed(view: View, limits: Limits = LIMITS) -> set[int]:
    return {action for action, free in enumerate(mask_of(refusals(view, limits))) if free}


def test_a_plain_step_may_go_anywhere() -> None:
    assert _allowed(_view(_step())) == {HOME, BUY, WAIT}
    assert _allowed(_view(_step(), _machine())) == {HOME, FIRST_MACHINE, BUY, WAIT}


@pytest.mark.parametrize(
    ("view", "action", "reason"),
    [
        (_view(_step(memory_p95_gb=6.6)), HOME, "beside the reserve"),
        (_view(_step(memory_p95_gb=31.0)), BUY, "may not fit on the machine"),
        (_view(_step(), _machine(free_gb=3.9)), FIRST_MACHINE, "may not fit on the machine"),
        (_view(_step(), _machine(state="leaving")), FIRST_MACHINE, "got notice"),
        (_view(_step()), FIRST_MACHINE, "no such machine"),
        (_view(_step(private=True), _machine()), FIRST_MACHINE, "private"),
        (_view(_step(private=True)), BUY, "private"),
        (_view(_step(spot_losses=3)), BUY, "lost on machines too often"),
        (_view(_step(), day_left=0.005), BUY, "money does not reach"),
        (_view(_step(), month_left=0.005), BUY, "money does not reach"),
        (_view(_step(), committed=0.399), BUY, "money does not reach"),
        (_view(_step(), _machine(), day_left=0.002), FIRST_MACHINE, "money does not reach"),
        (_view(_step(waited=901.0)), WAIT, "waited too long"),
        (_view(_step(deadline_in=-1.0)), WAIT, "deadline has passed"),
        (_view(_step()), KEEP, "is about a step"),
        (_view(None), HOME, "is about machines"),
        (_view(None, _machine(busy_seconds=1.0)), FIRST_STOP, "not idle"),
        (_view(None, _machine(ready_in=1.0)), FIRST_STOP, "not idle"),
        (_view(None), FIRST_STOP, "no such machine"),
        (_view(None, day_left=0.001), PREWARM, "money does not reach"),
    ],
)
def test_a_refusal_and_its_reason(view: View, action: int, reason: str) -> None:
    found = refusals(view, LIMITS)[action]
    assert found is not None and reason in found


def test_what_is_late_need_not_buy_but_takes_what_there_is() -> None:
    late = _step(deadline_in=-1.0, memory_p95_gb=7.0)
    assert _allowed(_view(late)) == {BUY, WAIT}
    assert _allowed(_view(late, _machine())) == {FIRST_MACHINE, BUY}
    starving = _step(waited=901.0, memory_p95_gb=7.0)
    assert _allowed(_view(starving)) == {BUY}


def test_three_machines_are_the_most() -> None:
    view = _view(_step())
    view.machines = [_machine(), _machine(), _machine()]
    assert BUY not in _allowed(view)
    assert BUY not in _allowed(_view(_step(), _machine()), Limits(machines=1))


def test_what_was_lost_too_often_but_never_fits_at_home_may_go_again() -> None:
    assert BUY in _allowed(_view(_step(spot_losses=3, memory_p95_gb=20.0)))


def test_a_starving_step_without_a_place_may_wait() -> None:
    view = _view(_step(waited=2000.0, deadline_in=-9.0, private=True, memory_p95_gb=7.0))
    assert _allowed(view) == {WAIT}


def test_a_machine_that_works_on_anyway_costs_nothing_more() -> None:
    busy = _machine(busy_seconds=1000.0, cores_wanted=2.0)
    assert FIRST_MACHINE in _allowed(_view(_step(), busy, day_left=0.001))


def test_machines_stop_while_the_money_pays_for_their_notice() -> None:
    price, notice = 0.0638, 30.0
    needed = 3 * price * notice / 3600
    assert must_stop(needed, 12.0, 3, price, notice)
    assert must_stop(0.4, needed, 3, price, notice)
    assert not must_stop(needed * 1.01, 12.0, 3, price, notice)


def test_a_refused_action_and_one_that_does_not_exist() -> None:
    reasons = refusals(_view(_step(private=True)), LIMITS)
    with pytest.raises(
        SettingsError,
        match=r"policy 'mine' took 'buy', which is refused \(the step is private\); allowed are "
        r"home, wait",
    ):
        checked(BUY, reasons, "mine")
    for action in (-1, ACTIONS):
        with pytest.raises(SettingsError, match=rf"took action {action}; there are 0 to 10"):
            checked(action, reasons, "mine")


class _Random:
    name, order = "random", "urgent"

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        return int(self._random.choice(np.flatnonzero(mask)))


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["light", "busy", "high_hazard", "bad_estimates", "bursty"]),
    seed=st.integers(0, 10_000),
    month=st.sampled_from([0.0, 11.8, 12.0]),
)
def test_no_policy_breaks_a_cap_or_overfills_a_place(name: str, seed: int, month: float) -> None:
    policy = _Random(seed)
    simulation = Simulation(
        make_day(load_regime(FOLDER / f"{name}.toml"), seed, "train", 0), month_spent=month
    )
    while (decision := simulation.next_decision()) is not None:
        action, world = policy.choose(decision.view, decision.mask), simulation.world
        assert any(decision.mask)
        if action == HOME and decision.task is not None:
            free = world.home.memory_gb - world.user_gb - world.home.used_gb
            assert decision.task.step.memory_p95_gb <= free - LIMITS.reserve_gb + 1e-9
        simulation.take(action)
    outcome = simulation.outcome()
    assert outcome.breaches == 0
    assert simulation.world.ledger.month_spent <= 12.0 + 1e-9
    parts = outcome.dollars + outcome.borrowed + outcome.waiting + outcome.misses
    assert outcome.cost == pytest.approx(parts)


def test_the_day_is_the_same_whatever_the_policy_does() -> None:
    day = make_day(load_regime(FOLDER / "high_hazard.toml"), 3, "train", 1)
    before = (day.shocks, day.user_gb, [day.boot_seconds(0, 0, at) for at in range(0, 9000, 60)])
    costs = [simulate(day, _Random(seed)).cost for seed in (1, 2, 1)]
    after = (day.shocks, day.user_gb, [day.boot_seconds(0, 0, at) for at in range(0, 9000, 60)])
    assert before == after
    assert costs[0] == costs[2] != costs[1]
