"""Branches of a simulation: each goes on as the whole would have."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl.branches import advance, branch, is_idle
from rl.greedy import Greedy
from rl.parameters import load_parameters
from rl.regime import load_regime
from rl.simulator import Simulation, simulate
from rl.view import BUY, HOME, WAIT
from rl.workload import make_day
from tests.unit.rl.made_days import Prefer, made_day, step

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"


@pytest.mark.parametrize("name", ["busy", "high_hazard"])
def test_a_branch_ends_as_the_whole_day_does(name: str) -> None:
    day = make_day(load_regime(FOLDER / f"{name}.toml"), 5, "validation", 3)
    greedy = Greedy(load_parameters())
    whole = simulate(day, greedy)
    simulation = Simulation(day)
    ends = []
    while (decision := simulation.next_decision()) is not None:
        if simulation.decisions % 40 == 7:
            twin = branch(simulation)
            assert twin.asked is not None
            twin.take(greedy.choose(twin.asked.view, twin.asked.mask))
            advance(twin, greedy)
            ends.append(twin.outcome())
        simulation.take(greedy.choose(decision.view, decision.mask))
    assert len(ends) > 3
    assert all(end == whole for end in ends)
    # and the branches have left the trunk as it was
    assert simulation.outcome() == whole


def test_stops_on_the_way_change_nothing() -> None:
    day = make_day(load_regime(FOLDER / "busy.toml"), 5, "validation", 2)
    greedy = Greedy(load_parameters())
    simulation = Simulation(day)
    for hour in range(1, 61):
        advance(simulation, greedy, 3600.0 * hour)
    assert simulation.outcome() == simulate(day, greedy)


def test_what_is_spent_at_a_time_between_two_events() -> None:
    # one step of 600 s from 0 on; 0.30 an hour of priority 1, no machine
    simulation = Simulation(made_day([(0.0, [step(600.0)])], deadline=10_000.0))
    advance(simulation, Prefer(lambda view: (HOME,)), 100.0)
    assert simulation.world.spent_at(100.0) == pytest.approx((0.30 * 100 / 3600, 0.0))
    assert not is_idle(simulation)
    advance(simulation, Prefer(lambda view: (HOME,)), 5000.0)
    assert is_idle(simulation)
    assert simulation.world.spent_at(5000.0) == pytest.approx((0.30 * 600 / 3600, 0.0))


def test_machines_are_paid_for_until_then() -> None:
    simulation = Simulation(made_day([(0.0, [step(600.0)])], deadline=10_000.0))
    advance(simulation, Prefer(lambda view: (BUY, WAIT)), 400.0)
    cost, machines = simulation.world.spent_at(400.0)
    assert machines == pytest.approx(0.0638 * 400 / 3600)
    assert cost == pytest.approx(machines + 0.30 * 400 / 3600)
