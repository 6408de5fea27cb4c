"""The simulator against what is known without one: queues, schedules, losses, bills."""

from __future__ import annotations

from dataclasses import replace
from heapq import heappop, heappush

import numpy as np
import pytest

from rl.draws import Draws
from rl.simulator import Simulation, simulate
from rl.view import BUY, FIRST_MACHINE, FIRST_STOP, HOME, KEEP, PREWARM, View
from rl.work import Day
from rl.workload import shocks
from tests.unit.rl.made_days import BOOT, Prefer, made_day, plain_regime, step

HOUR = 3600.0
AT_HOME = Prefer(lambda view: (HOME, KEEP))


def _single_steps(
    load: float, servers: int, memory_gb: float, count: int, seed: int, cores: float = 64.0
) -> tuple[Day, list[tuple[float, float]]]:
    """A day of single steps for home alone, and its (arrival, seconds); mean 2 s a step."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(2.0 / (load * servers), count)).tolist()
    jobs = list(zip(arrivals, random.exponential(2.0, count).tolist(), strict=True))
    regime = plain_regime(
        home={"cores": cores}, costs={"hour_of_priority": 1.0, "miss": 0.0}, spot={"machines": 0}
    )
    workflows = [(at, [step(seconds, memory_gb)]) for at, seconds in jobs]
    return made_day(workflows, regime, until=2 * arrivals[-1] + 1000.0), jobs


def _mean_flow(day: Day) -> float:
    """Seconds; a dollar is an hour of a workflow there."""
    outcome = simulate(day, AT_HOME)
    assert outcome.unfinished == 0
    return outcome.waiting * HOUR / outcome.workflows


def test_two_cores_shared_by_steps_of_two_are_an_m_m_1_queue() -> None:
    # Kleinrock 1976: with processor sharing too the mean flow is mean / (1 - load)
    flows = [_mean_flow(_single_steps(0.5, 1, 0.0, 5000, seed, 2.0)[0]) for seed in range(3)]
    assert np.mean(flows) == pytest.approx(2.0 / (1 - 0.5), rel=0.06)


@pytest.mark.parametrize(("servers", "memory_gb"), [(1, 6.0), (2, 4.5), (3, 3.2)])
def test_memory_for_a_few_is_a_queue_in_order(servers: int, memory_gb: float) -> None:
    # 10 GB are left of 16 beside the user's 4.5 and the reserve of 1.5. Each sample path is known:
    # a step starts when the first of the servers is free (Kiefer and Wolfowitz 1955).
    day, jobs = _single_steps(0.8, servers, memory_gb, 1500, servers)
    free, flows = [0.0] * servers, []
    for arrival, seconds in jobs:
        start = max(arrival, heappop(free))
        heappush(free, start + seconds)
        flows.append(start + seconds - arrival)
    assert _mean_flow(day) == pytest.approx(np.mean(flows), rel=1e-6)


def test_a_chain_takes_the_sum_and_a_fork_the_longest() -> None:
    chain = [step(10), step(20, parents=[0]), step(5, parents=[1])]
    fork = [step(10), step(20, parents=[0]), step(7, parents=[0]), step(1, parents=[1, 2])]
    outcome = simulate(made_day([(100.0, chain)]), AT_HOME)
    assert outcome.flow_p50 == pytest.approx(35.0, abs=1e-3)
    outcome = simulate(made_day([(100.0, fork)]), AT_HOME)
    assert outcome.flow_p50 == pytest.approx(31.0, abs=1e-3)


def test_two_steps_of_two_cores_on_three_slow_each_other() -> None:
    # rate 3/4 until the shorter's 30 s are done after 40 s; the longer's 30 s more run alone
    regime = plain_regime(home={"cores": 3.0})
    outcome = simulate(made_day([(0.0, [step(30), step(60)])], regime), AT_HOME)
    assert outcome.flow_p50 == pytest.approx(70.0, abs=1e-3)


def test_swapping_slows_down_to_three_tenths() -> None:
    # at 10 s the user takes 12 GB of 16 and the step holds 6: 20 s of work take 20 / 0.3
    day = made_day([(0.0, [step(30, 6.0)])], user_gb=((0.0, 4.5), (10.0, 12.0)))
    outcome = simulate(day, AT_HOME)
    assert outcome.flow_p50 == pytest.approx(10 + 20 / 0.3, abs=1e-3)
    assert outcome.out_of_memory == 0


def test_beyond_the_swap_the_step_is_ended_and_begins_again() -> None:
    # at 10 s the user takes 14 GB: 20 are more than 16 + 3; at 60 s there is room again
    day = made_day([(0.0, [step(30, 6.0)])], user_gb=((0.0, 4.5), (10.0, 14.0), (60.0, 4.5)))
    outcome = simulate(day, AT_HOME)
    assert (outcome.out_of_memory, outcome.misplaced) == (1, 0)
    assert outcome.lost_seconds == pytest.approx(10.0, abs=1e-3)
    assert outcome.flow_p50 == pytest.approx(60 + 30, abs=1e-3)


def test_what_ran_out_of_memory_comes_back_with_its_true_need() -> None:
    # believed to stay below 4 GB, it holds 6: it is asked about again as one of 6
    day = made_day([(0.0, [step(30, 6.0)])], user_gb=((0.0, 4.5), (10.0, 14.0), (60.0, 4.5)))
    [workflow] = day.workflows
    wrong = replace(workflow.steps[0], memory_mean_gb=3.0, memory_p95_gb=4.0)
    day = replace(day, workflows=(replace(workflow, steps=(wrong,)),))
    simulation, seen = Simulation(day), []
    while (decision := simulation.next_decision()) is not None:
        if decision.view.step is not None:
            seen.append(decision.view.step.memory_p95_gb)
        simulation.take(AT_HOME.choose(decision.view, decision.mask))
    assert seen[0] == 4.0 and set(seen[1:]) == {6.0}


def test_what_does_not_fit_from_the_start_was_misplaced() -> None:
    # the user holds 4.5 GB of 16; 15 beside them are more than the swap of 3 GB takes
    day = made_day([(0.0, [step(30, 9.0)])])
    [workflow] = day.workflows
    wrong = replace(workflow.steps[0], memory_gb=15.0)
    day = replace(day, workflows=(replace(workflow, steps=(wrong,)),), until=600.0)
    outcome = simulate(day, AT_HOME)
    assert outcome.misplaced == outcome.out_of_memory == 1


def _away(view: View) -> tuple[int, ...]:
    if view.step is None:
        return (FIRST_STOP, FIRST_STOP + 1, FIRST_STOP + 2, KEEP)
    return (FIRST_MACHINE, FIRST_MACHINE + 1, BUY)


def test_a_machine_is_paid_from_its_order_to_its_end() -> None:
    # start, 5 s to load, then 1.15 s a second of a function
    outcome = simulate(made_day([(50.0, [step(200, 20.0)])]), Prefer(_away))
    seconds = BOOT + 5 + 200 * 1.15
    assert outcome.flow_p50 == pytest.approx(seconds, abs=1e-3)
    assert outcome.dollars == pytest.approx(seconds / HOUR * 0.0638, rel=1e-6)
    assert (outcome.bought, outcome.breaches) == (1, 0)


def test_the_objective_is_money_and_time_and_misses() -> None:
    outcome = simulate(
        made_day([(50.0, [step(200, 20.0)])], priority=2.0, deadline=100.0), Prefer(_away)
    )
    assert outcome.waiting == pytest.approx(0.30 * 2.0 * outcome.flow_p50 / HOUR, rel=1e-6)
    assert outcome.misses == pytest.approx(0.10 * 2.0)
    assert outcome.cost == pytest.approx(outcome.dollars + outcome.waiting + outcome.misses)
    assert outcome.met == 0.0


def test_less_than_a_minute_is_paid_as_a_minute() -> None:
    def wanted(view: View) -> tuple[int, ...]:
        if view.step is None:
            return (PREWARM,) if view.machines[0] is None and view.now < 1 else (KEEP,)
        return (HOME,)

    outcome = simulate(made_day([(0.0, [step(10)])]), Prefer(wanted))
    assert outcome.dollars == pytest.approx(60 / HOUR * 0.0638)


def _taken_back(kind: str, notice: float = 30.0) -> tuple[float, float]:
    """(flow, lost seconds) of 1000 s of work, its machine taken back 300 s after the order."""
    regime = plain_regime(spot={"notice_seconds": notice})
    day = made_day([(0.0, [step(1000, 20.0, kind=kind)])], regime, shocks=((300.0, 0, 0),))
    outcome = simulate(day, Prefer(_away))
    assert outcome.lost == 1
    return outcome.flow_p50, outcome.lost_seconds


def test_what_has_no_checkpoints_begins_again() -> None:
    flow, lost = _taken_back("function")
    assert flow == pytest.approx(330 + BOOT + 5 + 1150, abs=1e-3)
    assert lost == pytest.approx((330 - BOOT - 5) / 1.15, abs=1e-3)


def test_what_has_checkpoints_goes_on_where_it_was() -> None:
    flow, lost = _taken_back("train")
    done = 330 - BOOT - 45
    assert flow == pytest.approx(330 + BOOT + 45 + 1400 - done, abs=0.1)
    assert lost == 0.0


def test_without_time_to_save_the_last_checkpoint_counts() -> None:
    flow, lost = _taken_back("train", notice=5.0)
    done = 305 - BOOT - 45  # 160: two checkpoints of 60 s
    assert lost == pytest.approx((done - 120) / 1.4, abs=0.1)
    assert flow == pytest.approx(305 + BOOT + 45 + 1400 - 120, abs=0.1)


def test_losses_come_at_the_hazard() -> None:
    hours = 2000.0
    count = len(shocks(Draws(3), 0.5, ((), ()), 3, hours * HOUR)) / (2 * 3)
    assert count == pytest.approx(0.5 * hours, rel=0.05)


def test_the_cap_of_a_day_stops_machines_and_midnight_lets_them_go_on() -> None:
    # 0.05 USD pay for 47 minutes a day; three hours of work need several days
    regime = plain_regime(costs={"day_dollars": 0.05})
    day = made_day(
        [(23 * HOUR, [step(1500, 20.0, kind="train") for _ in range(3)])], regime, until=400 * HOUR
    )
    outcome = simulate(day, Prefer(_away))
    assert outcome.unfinished == 0
    assert outcome.breaches == 0
    assert outcome.dollars > 0.1
