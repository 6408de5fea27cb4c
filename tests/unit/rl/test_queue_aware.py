"""The queue-aware policy: what each of its beliefs does in a plain case."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from rl.features import features
from rl.greedy import Greedy
from rl.look_ahead import ends_of_others
from rl.parameters import Base
from rl.queue_aware import QueueAware
from rl.queue_parameters import QueueParameters
from rl.regime import load_regime
from rl.shapes import Draft
from rl.sharing import shared_seconds, until_free
from rl.simulator import Simulation, simulate
from rl.urgency import Urgency
from rl.view import ACTIONS, BUY, HOME, KEEP, WAIT, RunView, View, WaitingView
from rl.workload import make_day
from tests.unit.rl.made_days import made_day, step

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"


def _run(work: float, cores: float = 2.0, memory_gb: float = 1.0) -> RunView:
    return RunView(work, memory_gb, 1.0, cores, work)


def _waiting(number: int, seconds: float, memory_gb: float = 1.0) -> WaitingView:
    return WaitingView(number, memory_gb, seconds, seconds, 0.0, 1.0, 1e6, private=False)


def _first(*workflows: tuple[float, list[Draft]]) -> View:
    decision = Simulation(made_day(list(workflows), deadline=9e3)).next_decision()
    assert decision is not None
    return decision.view


def test_cores_are_shared_until_the_others_end() -> None:
    # 4 cores, two steps of 4: half the rate for 10 + 10 s, then alone
    assert shared_seconds(30.0, 4.0, 4.0, 4.0, [_run(10.0, 4.0)]) == pytest.approx(20.0 + 20.0)
    assert shared_seconds(5.0, 4.0, 4.0, 4.0, [_run(10.0, 4.0)]) == pytest.approx(10.0)
    assert shared_seconds(30.0, 2.0, 4.0, 2.0, [_run(10.0)]) == 30.0
    # what has not begun keeps its cores
    assert shared_seconds(30.0, 4.0, 4.0, 4.0, []) == pytest.approx(60.0)


def test_memory_comes_free_as_steps_end() -> None:
    runs = [_run(50.0, memory_gb=4.0), _run(20.0, memory_gb=2.0)]
    assert until_free(3.0, 4.0, runs) == (20.0, True)
    assert until_free(5.0, 4.0, runs) == (20.0, True)
    assert until_free(8.0, 4.0, runs) == (50.0, True)
    assert until_free(11.0, 4.0, runs) == (50.0, False)
    assert until_free(3.0, 4.0, []) == (0.0, False)


def test_the_small_go_first_where_size_counts() -> None:
    small, large = _waiting(1, 100.0, 1.0), _waiting(2, 100.0, 8.0)
    assert Urgency().of(small, 0.0) == Urgency().of(large, 0.0)
    sized = Urgency(size=0.5)
    assert sized.of(small, 0.0) > sized.of(large, 0.0)


def test_an_order_of_its_own_decides_who_is_asked_first() -> None:
    # the long one is small: first where size counts more than time
    day = made_day([(0.0, [step(300, 0.2)]), (0.0, [step(100, 9.0)])], deadline=1e6)
    for order, first in ((Urgency(deadline=0.0), 1), (Urgency(left=0.0, size=1.0), 0)):
        decision = Simulation(day, order=order).next_decision()
        assert decision is not None and decision.view.step is not None
        assert decision.view.step.number == first


def test_who_waits_and_what_runs_beside_is_seen() -> None:
    # three at once: one long, two short; the long one decides when the workflow ends
    steps = [
        step(10),
        *(step(seconds, 3.0, [0]) for seconds in (500, 60, 60)),
        step(5, 1, [1, 2, 3]),
    ]
    simulation = Simulation(made_day([(0.0, steps)]))
    seen: dict[int, float] = {}
    while (decision := simulation.next_decision()) is not None:
        one = decision.view.step
        if one is not None and one.number not in seen:
            seen[one.number] = one.beside_seconds
            assert one.number in [other.number for other in decision.view.others]
        simulation.take(KEEP if one is None else HOME if decision.mask[HOME] else WAIT)
        if len(seen) == 4:
            break
    assert seen[0] == 0.0  # nothing beside it
    assert max(seen[2], seen[3]) == pytest.approx(505.0)
    assert seen[1] == pytest.approx(65.0)


@pytest.mark.parametrize("policy", [Greedy(), QueueAware()], ids=["greedy", "queue-aware"])
def test_a_step_of_milliseconds_does_not_wait_for_a_core(policy: Base) -> None:
    view = _first((0.0, [step(0.005)]))
    home = replace(view.home, runs=[_run(0.005)] * 8, cores_wanted=4 * view.home.cores)
    costs = policy.costs(replace(view, home=home), [True] * ACTIONS)
    assert costs[HOME] < costs[WAIT], "what comes free is noticed later than it would have ended"


def test_waiting_costs_more_behind_more_urgent_steps() -> None:
    view = _first((0.0, [step(500, 9.0)]), (0.0, [step(400, 9.0)]))
    assert view.step is not None and len(view.others) == 2
    mask = [False] * 5 + [True] + [False] * 5
    own = next(one for one in view.others if one.number == view.step.number)
    policy = QueueAware(QueueParameters(ahead=1.0))
    alone = policy.costs(replace(view, others=[own]), mask)[WAIT]
    urgent = replace(own, number=99, priority=3.0)
    idle = replace(own, number=99, priority=0.1)
    assert policy.costs(replace(view, others=[own, urgent]), mask)[WAIT] > alone
    assert policy.costs(replace(view, others=[own, idle]), mask)[WAIT] == pytest.approx(alone)


def test_money_that_is_gone_early_makes_machines_dear() -> None:
    view = _first((0.0, [step(500, 20.0)]))
    mask = [False] * 4 + [True] + [False] * 6
    policy = QueueAware(QueueParameters(ration=5.0))

    def buying(hour: float, left: float) -> float:
        money = replace(view.money, day_left=left, day_cap=0.4)
        return policy.costs(replace(view, now=3600.0 * hour, money=money), mask)[BUY]

    assert buying(10.0, 0.1) > buying(22.0, 0.1)
    assert buying(10.0, 0.4) == buying(22.0, 0.4)


def test_slow_machines_are_learned_of_as_steps_end_on_them() -> None:
    day = make_day(load_regime(FOLDER / "busy.toml"), 0, "train", 4)
    policy, simulation = QueueAware(), Simulation(day)
    while (decision := simulation.next_decision()) is not None:
        simulation.take(policy.choose(decision.view, decision.mask))
    slowdown = [
        one.cloud_seconds / (one.home_seconds * one.cloud_mean / one.home_mean)
        for workflow in day.workflows
        for one in workflow.steps
    ]
    # the same for all steps of the day, and unknown when it begins
    assert max(slowdown) == pytest.approx(min(slowdown))
    assert abs(math.log(simulation.world.pace.mean() / slowdown[0])) < abs(math.log(slowdown[0]))


@pytest.mark.parametrize("name", ["busy", "high_hazard", "bad_estimates"])
def test_costs_are_finite_where_allowed_and_days_stay_within_their_caps(name: str) -> None:
    day, policy = make_day(load_regime(FOLDER / f"{name}.toml"), 0, "train", 1), QueueAware()
    simulation = Simulation(day, order=policy.order)
    while (decision := simulation.next_decision()) is not None:
        costs = policy.costs(decision.view, decision.mask)
        assert [cost < math.inf for cost in costs] == decision.mask
        assert not any(math.isnan(cost) for cost in costs)
        features(decision.view, decision.mask, costs)
        simulation.take(policy.choose(decision.view, decision.mask))
    outcome = simulation.outcome()
    assert (outcome.breaches, outcome.misplaced) == (0, 0)
    assert simulate(day, QueueAware()).cost == outcome.cost


def test_a_large_step_to_come_is_foreseen_from_what_runs() -> None:
    # 10 s, then 100 s, then a large one: at home it can never be
    steps = [step(10, 1.0), step(100, 1.0, [0]), step(60, 20.0, [1])]
    simulation, seen = Simulation(made_day([(50.0, steps)])), list[tuple[bool, float, float]]()
    while (decision := simulation.next_decision()) is not None and len(seen) < 4:
        view = decision.view
        seen.append((view.step is None, view.now, round(view.large_in, 6)))
        simulation.take(HOME if view.step else KEEP)
    # about each step, and about the machines as it has begun
    assert seen == [
        (False, 50.0, 110.0),
        (True, 50.0, 110.0),
        (False, 60.0, 100.0),
        (True, 60.0, 100.0),
    ]


def test_those_that_wait_are_put_where_they_end_first() -> None:
    view = _first((0.0, [step(500, 9.0)]))
    assert view.step is not None
    # 10 GB are free: beside 9 GB for 500 s one of 1 GB fits, one of 2 GB waits for its end
    others = [_waiting(1, 30.0, 1.0), _waiting(2, 40.0, 2.0), _waiting(3, 40.0, 20.0)]
    assert ends_of_others(view, view.step, HOME, others) == [30.0, 540.0, 3600.0]
    assert ends_of_others(view, view.step, WAIT, others) == [30.0, 40.0, 3600.0]
    # on a new machine the large one finds room after the start
    assert ends_of_others(view, view.step, BUY, others)[2] == pytest.approx(90.0 + 40.0)


def test_what_others_lose_is_added_to_an_option() -> None:
    view = _first((0.0, [step(60, 9.0)]), (0.0, [step(60, 9.0)]))
    mask = [True, False, False, False, True, True] + [False] * 5
    blind, seeing = (
        QueueAware(QueueParameters(look_ahead=weight)).costs(view, mask) for weight in (1e-9, 1.0)
    )
    more = [after - before for before, after in zip(blind, seeing, strict=True) if before < 1e9]
    assert min(more) == pytest.approx(0.0, abs=1e-6) and max(more) > 1e-4
