"""The bound, the optimum and the search, in this order on every small day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rl.baselines import RULES
from rl.bounds import lower_bound
from rl.clairvoyant import Plan, Rest, run_plan, search
from rl.greedy import Greedy, GreedyParameters
from rl.parameters import policy_of
from rl.queue_parameters import QueueParameters
from rl.regime import load_regime
from rl.simulator import Simulation, simulate
from rl.uniform_progress import UniformProgress
from rl.view import BUY, HOME
from rl.work import ZONES, Day, Step
from rl.workload import make_day
from tests.unit.rl.made_days import Prefer, made_day, plain_regime, step
from tests.unit.rl.made_policies import made_policy

FOLDER = Path(__file__).parents[3] / "rl" / "regimes"
ROUNDING = 0.001  # USD: whole seconds and whole micro-dollars a second

SMALL: dict[str, Day] = {
    "all at home": made_day([(0.0, [step(60, 2.0), step(40, 3.0, [0])])]),
    "one is too large": made_day(
        [(0.0, [step(60, 2.0), step(400, 14.0, [0]), step(20, 1.0, [1])])]
    ),
    "two do not fit together": made_day(
        [(0.0, [step(300, 6.0)]), (10.0, [step(100, 6.0)]), (20.0, [step(20, 6.0)])]
    ),
    "a machine pays for itself": made_day(
        [(0.0, [step(2000, 6.0), step(2000, 6.0), step(2000, 6.0)])], deadline=2600.0
    ),
    "private ones stay": made_day(
        [(0.0, [step(120, 6.0)]), (5.0, [step(60, 5.5)])], private=True, deadline=100.0
    ),
    "many on one machine": made_day(
        [(float(at), [step(200, 12.0), step(30, 1.0, [0])]) for at in (0, 60, 90, 150)]
    ),
}


# the last takes the search a few seconds
@pytest.mark.parametrize(
    "name", [*list(SMALL)[:-1], pytest.param(list(SMALL)[-1], marks=pytest.mark.slow)]
)
def test_bound_optimum_search_greedy(name: str) -> None:
    # here and not above: the others need no solver (CP-SAT is a dependency of tests alone)
    from tests.unit.rl.exact import optimum

    day = SMALL[name]
    bound, best = lower_bound(day), optimum(day, 6000)
    found = min(search(day, evaluations=600, seed=seed)[1].cost for seed in range(3))
    assert bound <= best + ROUNDING
    assert best <= found + ROUNDING
    assert found <= simulate(day, Greedy()).cost + 1e-12
    # the search is no proof: within a twelfth here
    assert found <= 1.08 * best + ROUNDING


def test_the_bound_is_reached_where_nothing_is_scarce() -> None:
    day = made_day([(0.0, [step(60, 2.0), step(40, 9.0, [0])])])
    assert lower_bound(day) == pytest.approx(simulate(day, Greedy()).cost, rel=1e-6)


def test_a_deadline_that_nobody_can_keep_is_in_the_bound() -> None:
    day = made_day([(0.0, [step(60, 2.0)])], deadline=30.0)
    assert lower_bound(day) == pytest.approx(0.10 + 0.30 * 60 / 3600)


def test_a_step_in_two_places_is_not_below_the_bound() -> None:
    """At home it is late, away it is dear: its machine is lost once it has done enough."""
    regime = plain_regime(
        costs={"day_dollars": 10.0, "miss": 1.0}, spot={"dollars_per_hour": 3.0, "cores": 4.0}
    )
    day = made_day([(0.0, [step(3600.0, 6.0, kind="train")])], regime, deadline=3000.0)
    [workflow] = day.workflows
    faster = tuple(replace(one, cloud_seconds=1800.0, cloud_mean=1800.0) for one in workflow.steps)
    lost = tuple((900.0, zone, 0) for zone in range(ZONES))
    day = replace(day, workflows=(replace(workflow, steps=faster),), shocks=lost)
    away_once = Prefer(
        lambda view: (BUY,) if view.step is not None and not view.step.spot_losses else (HOME,)
    )
    costs = {
        "away": simulate(replace(day, shocks=()), Prefer(lambda view: (BUY,))).cost,
        "home": simulate(day, Prefer(lambda view: (HOME,))).cost,
        "split": simulate(day, away_once).cost,
    }
    assert costs["split"] < min(costs["home"], costs["away"])
    assert lower_bound(day) <= costs["split"]
    whole = replace(day, workflows=(replace(workflow, steps=_of_kind(faster, "generate")),))
    assert lower_bound(whole) > costs["split"], "where nothing is split the bound is sharper"


def _of_kind(steps: Sequence[Step], kind: str) -> tuple[Step, ...]:
    return tuple(replace(one, kind=kind) for one in steps)


@pytest.mark.parametrize("name", ["light", "high_hazard", "bursty"])
def test_no_policy_goes_below_the_bound(name: str) -> None:
    regime = load_regime(FOLDER / f"{name}.toml")
    for number in range(6):
        day = make_day(regime, 11, "train", number)
        bound = lower_bound(day)
        assert bound > 0
        for policy in (*(rule() for rule in RULES), Greedy(), UniformProgress()):
            assert simulate(day, policy).cost >= bound - 1e-9


def test_the_search_begins_with_the_best_of_its_starts() -> None:
    day = make_day(load_regime(FOLDER / "light.toml"), 11, "train", 0)
    starts: list[Rest] = [GreedyParameters(), QueueParameters(order_left=1.3), made_policy(7)]
    alone = {run_plan(day, Plan(one)).cost: one for one in starts}
    assert len(alone) == 3, "they differ on this day"
    for some in (starts, starts[::-1]):
        plan, outcome = search(day, some, evaluations=3)
        assert outcome.cost == min(alone) and plan.rest is alone[min(alone)]
    assert search(day, starts, evaluations=30)[1].cost <= min(alone)


def test_an_empty_plan_asks_in_the_order_of_who_decides() -> None:
    day = make_day(load_regime(FOLDER / "busy.toml"), 11, "train", 0)
    rest = QueueParameters(order_left=4.0)
    policy = policy_of(rest)
    simulation = Simulation(day, order=policy.order, clairvoyant=True)
    while (decision := simulation.next_decision()) is not None:
        simulation.take(policy.choose(decision.view, decision.mask))
    assert run_plan(day, Plan(rest)) == simulation.outcome()


@pytest.mark.parametrize("rest", [QueueParameters(), made_policy(7)])
def test_a_search_from_a_policy_moves_that_policys_parameters(rest: Rest) -> None:
    day = make_day(load_regime(FOLDER / "light.toml"), 11, "train", 0)
    plan, outcome = search(day, [rest], evaluations=40, levers=frozenset({"parameters"}))
    assert type(plan.rest) is type(rest)
    assert outcome == run_plan(day, plan) and outcome.cost <= run_plan(day, Plan(rest)).cost


def test_the_search_is_never_worse_than_its_start_and_repeats_itself() -> None:
    # a search of fewer evaluations is the beginning of one of more
    day = SMALL["many on one machine"]
    costs = []
    for evaluations in (1, *range(10, 100, 10)):
        plan, outcome = search(day, evaluations=evaluations, seed=2)
        assert run_plan(day, plan) == outcome
        costs.append(outcome.cost)
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]
    assert search(day, evaluations=90, seed=2) == (plan, outcome)
