"""More of what is known without a simulator: queues, restarts, sharing, starts, caps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rl.draws import Draws
from rl.simulator import simulate
from rl.view import BUY, FIRST_MACHINE, FIRST_STOP, HOME, KEEP, PREWARM, WAIT, View
from rl.work import Day
from rl.workload import shocks
from tests.unit.rl.made_days import BOOT, Prefer, made_day, plain_regime, step

HOUR = 3600.0
AT_HOME = Prefer(lambda view: (HOME, KEEP))
COLD = 5.0  # of a function on a machine
SLOWER = 1.15  # there
Lengths = Callable[[np.random.Generator, int], np.ndarray]


def _fixed(random: np.random.Generator, count: int) -> np.ndarray:
    return np.full(count, 2.0)


def _exponential(random: np.random.Generator, count: int) -> np.ndarray:
    return random.exponential(2.0, count)


def _two_lengths(random: np.random.Generator, count: int) -> np.ndarray:
    """Mean 2, squared coefficient of variation 3: of ten steps one is ten times as long."""
    return np.where(
        random.random(count) < 0.1, 2.0 * (1 + 3 * math.sqrt(3)), 2.0 - 2 / math.sqrt(3)
    )


def _flow(load: float, servers: int, memory_gb: float, lengths: Lengths, cores: float) -> float:
    """Mean seconds of single steps at home, over three days of 4000."""
    flows = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        arrivals = np.cumsum(random.exponential(2.0 / (load * servers), 4000)).tolist()
        seconds = lengths(random, 4000).tolist()
        regime = plain_regime(
            home={"cores": cores},
            costs={"hour_of_priority": 1.0, "miss": 0.0},
            spot={"machines": 0},
        )
        workflows = [
            (at, [step(long, memory_gb)]) for at, long in zip(arrivals, seconds, strict=True)
        ]
        outcome = simulate(made_day(workflows, regime, until=2 * arrivals[-1] + 1000), AT_HOME)
        assert outcome.unfinished == 0
        # a dollar is an hour of a workflow there
        flows.append(outcome.waiting * HOUR / outcome.workflows)
    return float(np.mean(flows))


@pytest.mark.parametrize(("lengths", "variation"), [(_fixed, 0.0), (_two_lengths, 3.0)])
def test_memory_for_one_is_an_m_g_1_queue(lengths: Lengths, variation: float) -> None:
    # Pollaczek and Khinchine: mean wait = load * mean * (1 + squared variation) / (2 (1 - load))
    load = 0.5
    expected = 2.0 + load * 2.0 * (1 + variation) / (2 * (1 - load))
    assert _flow(load, 1, 6.0, lengths, 64.0) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("lengths", [_fixed, _exponential, _two_lengths])
def test_sharing_does_not_ask_how_lengths_are_distributed(lengths: Lengths) -> None:
    # Kleinrock 1976: M/G/1 with processor sharing depends on the mean alone
    assert _flow(0.5, 1, 0.0, lengths, 2.0) == pytest.approx(2.0 / (1 - 0.5), rel=0.08)


def test_memory_for_two_keeps_erlangs_formula() -> None:
    load, servers = 0.6, 2
    offered = load * servers
    full = offered**2 / 2 / (1 - load)
    waits = full / (1 + offered + full)  # Erlang's C
    expected = 2.0 * (1 + waits / (servers * (1 - load)))
    assert _flow(load, servers, 4.5, _exponential, 64.0) == pytest.approx(expected, rel=0.06)


def _away(view: View) -> tuple[int, ...]:
    if view.step is None:
        return (FIRST_STOP, FIRST_STOP + 1, FIRST_STOP + 2, KEEP)
    return (FIRST_MACHINE, FIRST_MACHINE + 1, FIRST_MACHINE + 2, BUY)


def _lone(day: Day, **outcomes: Any) -> float:
    found = simulate(day, Prefer(_away))
    assert found.unfinished == 0
    for name, value in outcomes.items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-3), name
    return found.flow_p50


def test_restarts_of_what_has_no_checkpoints_take_as_long_as_is_known() -> None:
    # Expected time until an interval of D without a loss, of losses at rate h: (exp(h D) - 1) / h
    hazard, work = 6.0, 300.0
    whole = BOOT + COLD + SLOWER * work
    expected = (math.exp(hazard * whole / HOUR) - 1) / hazard * HOUR
    regime = plain_regime(
        spot={"notice_seconds": 0.0}, costs={"day_dollars": 1e6, "month_dollars": 1e6}
    )
    flows = []
    for seed in range(400):
        lost = shocks(Draws(seed), hazard, ((), ()), 1, 60 * HOUR)
        day = made_day([(0.0, [step(work, 20.0)])], regime, shocks=lost)
        # after three losses it would run at home, where it has no room
        flows.append(_lone(day))
    assert np.mean(flows) == pytest.approx(expected, rel=0.12)


def test_a_machine_shares_its_cores_as_the_head_does() -> None:
    # three functions of two cores on four: 2/3 of the rate each; all are as long
    regime = plain_regime(spot={"cores": 4.0})
    day = made_day([(0.0, [step(100, 8.0) for _ in range(3)])], regime)
    # the first of a kind loads its model, the others find it there
    first = COLD + SLOWER * 100
    others = SLOWER * 100
    shared = BOOT + others * 3 / 2
    assert _lone(day, bought=1) == pytest.approx(shared + (first - others), abs=1e-3)


def test_a_slow_machine_takes_longer_by_its_speed() -> None:
    day = made_day([(0.0, [step(100, 20.0)])], plain_regime(spot={"speed_sigma": 0.3}))
    speed = day.speed(0, 0, 0.0)
    assert speed != 1.0
    assert _lone(day) == pytest.approx(BOOT + COLD + SLOWER * 100 / speed, abs=1e-3)


def test_input_is_brought_at_the_bandwidth() -> None:
    day = made_day([(0.0, [step(100, 20.0)])])
    [workflow] = day.workflows
    heavy = replace(workflow.steps[0], transfer_mb=700.0)
    day = replace(day, workflows=(replace(workflow, steps=(heavy,)),), megabytes_per_second=7.0)
    assert _lone(day) == pytest.approx(BOOT + COLD + 100.0 + SLOWER * 100, abs=1e-3)


def test_a_zone_without_machines_costs_its_answer_and_no_money() -> None:
    # the first zone says no after 45 s, the second has one
    day = made_day([(0.0, [step(100, 20.0)])], outages=(((0.0, 3600.0),), ()))
    seconds = 45 + BOOT + COLD + SLOWER * 100
    dollars = (seconds - 45) / HOUR * 0.0638
    assert _lone(day, bought=2, stocked_out=1, dollars=dollars) == pytest.approx(seconds, abs=1e-3)


def test_a_loss_elsewhere_is_none_here() -> None:
    others = ((120.0, 1, 0), (150.0, 0, 1))  # the other zone, another slot
    day = made_day([(0.0, [step(100, 20.0)])], shocks=others)
    assert _lone(day, lost=0) == pytest.approx(BOOT + COLD + SLOWER * 100, abs=1e-3)


def test_a_machine_that_was_bought_early_is_there() -> None:
    steps = [step(300, 2.0), step(100, 20.0, parents=[0])]

    def wanted(view: View) -> tuple[int, ...]:
        if view.step is None:
            return (PREWARM,) if view.now < 1 else (KEEP,)
        return (FIRST_MACHINE, BUY) if view.step.memory_mean_gb > 10 else (HOME,)

    outcome = simulate(made_day([(0.0, steps)]), Prefer(wanted))
    assert outcome.flow_p50 == pytest.approx(300 + COLD + SLOWER * 100, abs=1e-3)
    assert outcome.bought == 1


def test_the_cap_of_a_month_holds_over_days() -> None:
    # 0.02 USD are left of the month: enough for one of two steps, whatever the day has
    regime = plain_regime(costs={"day_dollars": 1.0, "month_dollars": 12.0})
    day = made_day([(0.0, [step(600, 20.0)]), (0.0, [step(600, 20.0)])], regime, until=60 * HOUR)
    outcome = simulate(day, Prefer(_away), month_spent=11.98)
    assert outcome.unfinished == 1
    assert outcome.breaches == 0
    assert 0.01 < outcome.dollars <= 0.02


def test_starts_are_log_normal_about_their_median() -> None:
    regime = plain_regime(spot={"boot_sigma": 0.4})
    day = made_day([(0.0, [step(1)])], regime)
    starts = np.log([day.boot_seconds(0, 0, 60.0 * minute) / BOOT for minute in range(4000)])
    assert np.mean(starts) == pytest.approx(0.0, abs=0.03)
    assert np.std(starts) == pytest.approx(0.4, rel=0.05)


def test_stock_outs_come_as_often_as_is_said() -> None:
    day = made_day([(0.0, [step(1)])], stockout=0.2)
    slots = [day.is_stocked_out(1, 300.0 * slot) for slot in range(5000)]
    assert np.mean(slots) == pytest.approx(0.2, abs=0.02)


def test_a_machine_that_never_came_does_not_begin_the_wait_anew() -> None:
    waited: list[float] = []

    def wanted(view: View) -> tuple[int, ...]:
        if view.step is None:
            return (KEEP,)
        waited.append(view.step.waited)
        return (BUY,) if view.now < 1 else (WAIT,)

    simulate(made_day([(0.0, [step(100, 20.0)])], stockout=1.0), Prefer(wanted))
    assert waited[:2] == [0.0, 45.0]


def test_a_dollar_after_midnight_costs_the_next_day_one() -> None:
    late = 24 * HOUR - 10.0
    outcome = simulate(made_day([(late, [step(100, 20.0)])], deadline=9e3), Prefer(_away))
    seconds = BOOT + COLD + SLOWER * 100
    assert outcome.dollars == pytest.approx(seconds / HOUR * 0.0638, rel=1e-6)
    # the least payment of a minute is made before midnight
    assert outcome.borrowed == pytest.approx((seconds - 60.0) / HOUR * 0.0638, rel=1e-6)
    assert outcome.cost == pytest.approx(outcome.dollars + outcome.borrowed + outcome.waiting)


def test_a_day_begins_with_its_share_of_the_month() -> None:
    regime = plain_regime(costs={"day_dollars": 1.0, "month_dollars": 12.0})
    day = made_day([(0.0, [step(600, 20.0)])], regime, month_spent=11.999, until=60 * HOUR)
    assert simulate(day, Prefer(_away)).unfinished == 1
    assert simulate(day, Prefer(_away), month_spent=0.0).unfinished == 0
