"""The expected-cost policy and what it is compared with: what each does in plain cases."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ironcliw.errors import SettingsError
from rl.baselines import (
    AlwaysCloud,
    AlwaysLocal,
    BusyHomeRule,
    FreeMemoryRule,
    LargeAndLongRule,
)
from rl.greedy import Greedy, GreedyParameters
from rl.parameters import load_parameters, load_tuned, written
from rl.queue_parameters import QueueParameters
from rl.regime import load_regime
from rl.simulator import Policy, Simulation
from rl.uniform_progress import UniformProgress
from rl.view import ACTION_NAMES
from rl.work import Day
from rl.workload import make_day
from tests.unit.rl.made_days import made_day, step

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"


def places(day: Day, policy: Policy) -> list[tuple[int, str]]:
    """(step, action) in order, of decisions about steps."""
    simulation, found = Simulation(day, order=policy.order), []
    while (decision := simulation.next_decision()) is not None:
        action = policy.choose(decision.view, decision.mask)
        if decision.view.step is not None:
            found.append((decision.view.step.number, ACTION_NAMES[action]))
        simulation.take(action)
    return found


# the user holds 4.5 GB of 16: 11.5 GB are free, 10 beside the guardrails' reserve
@pytest.mark.parametrize(
    ("policy", "seconds", "memory_gb", "place"),
    [
        (FreeMemoryRule(), 60, 3.7, "home"),  # 11.5 - 2 x 3.7 > 4
        (FreeMemoryRule(), 60, 3.8, "buy"),
        (LargeAndLongRule(), 601, 8.1, "buy"),
        (LargeAndLongRule(), 600, 8.1, "home"),
        (LargeAndLongRule(), 601, 8.0, "home"),
        (BusyHomeRule(), 601, 8.1, "home"),  # 28 % are in use
        (AlwaysLocal(), 5000, 9.9, "home"),
        (AlwaysLocal(), 50, 10.1, "buy"),  # it never fits
        (AlwaysCloud(), 1, 0.1, "buy"),
        (Greedy(), 1, 0.1, "home"),
        (Greedy(), 50, 10.1, "buy"),
        (UniformProgress(), 50, 0.1, "home"),
    ],
)
def test_where_a_lone_step_goes(
    policy: Policy, seconds: float, memory_gb: float, place: str
) -> None:
    assert places(made_day([(0.0, [step(seconds, memory_gb)])]), policy) == [(0, place)]


def test_a_busy_head_sends_steps_away() -> None:
    # 9.2 and 4.5 of 16 GB are 86 %
    day = made_day([(0.0, [step(500, 9.2)]), (1.0, [step(50, 0.2)])])
    assert places(day, BusyHomeRule()) == [(0, "home"), (1, "buy")]


def test_the_rules_wait_for_memory_in_the_order_of_arrival() -> None:
    three = [(0.0, [step(100, 6.0)]), (1.0, [step(100, 6.0)]), (2.0, [step(9, 6.0)])]
    day = made_day(three, deadline=900.0)
    assert [number for number, place in places(day, AlwaysLocal()) if place == "home"] == [0, 1, 2]


def test_greedy_buys_when_waiting_would_cost_more() -> None:
    # 40 minutes of waiting are 0.20 USD; a machine for an hour is 0.06
    day = made_day([(0.0, [step(2400, 9.0)]), (1.0, [step(2400, 9.0)])], deadline=9000.0)
    assert (1, "buy") in places(day, Greedy()) or (0, "buy") in places(day, Greedy())


def test_greedy_lets_the_urgent_go_first() -> None:
    long, short = step(1000, 6.0), step(10, 6.0)
    found = places(made_day([(0.0, [long]), (0.0, [short])]), Greedy())
    assert found[0] == (1, "home")


def test_training_behind_its_line_takes_the_head_and_on_it_a_machine() -> None:
    train = step(1000, 2.0, kind="train")
    assert places(made_day([(0.0, [train])], deadline=900.0), UniformProgress()) == [(0, "home")]
    assert places(made_day([(0.0, [train])], deadline=9000.0), UniformProgress()) == [(0, "buy")]


def test_costs_are_infinite_where_refused_and_finite_elsewhere() -> None:
    simulation = Simulation(make_day(load_regime(FOLDER / "busy.toml"), 0, "train", 0))
    greedy = Greedy()
    while (decision := simulation.next_decision()) is not None:
        costs = greedy.costs(decision.view, decision.mask)
        assert [cost < math.inf for cost in costs] == decision.mask
        assert not any(math.isnan(cost) for cost in costs)
        simulation.take(greedy.choose(decision.view, decision.mask))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 1, "1"])
def test_a_parameter_that_is_no_positive_number_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match=r"parameter risk .* must be a number above 0"):
        GreedyParameters.of({"risk": value})  # type: ignore[dict-item]


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"no parameter 'luck'; it has crowding, hazard_weight"):
        GreedyParameters.of({"luck": 1.0})


def test_parameters_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "tuned.toml"
    own = GreedyParameters(idle_seconds=300.0, risk=0.125)
    path.write_text(written(own, {"light": "ab"}, "python -m rl tune"))
    assert load_parameters(path) == own


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"cannot be read \(No such file.*\); write one by `python -m rl tune"),
        ("parameters = ", "is not TOML"),
        ("[other]\nrisk = 1.0\n", r"has no table \[parameters\]"),
        ("[parameters]\nrisk = -1.0\n", "parameter risk"),
    ],
)
def test_a_damaged_file_of_parameters_is_named(
    text: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "tuned.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        load_parameters(path)


def test_parameters_of_the_other_policy_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "queue.toml"
    own = QueueParameters(ration=0.75)
    path.write_text(written(own, {}, "python -m rl tune"))
    assert load_tuned(path) == own
    with pytest.raises(SettingsError, match="is of the queue-aware policy; give one of the greedy"):
        load_parameters(path)
    path.write_text('policy = "luck"\n')
    with pytest.raises(SettingsError, match="of a policy 'luck'; it must be one of greedy, queue-"):
        load_tuned(path)
