"""The week that is held out: nothing of it is known before, and all of it is compared alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rl.baselines import AlwaysCloud
from rl.calibration.as_live import AsLive, has_room, lived
from rl.calibration.days import ReplayDay, days_of_log
from rl.calibration.fit import fit_log
from rl.calibration.overhead import Overhead, overhead_of
from rl.calibration.regimes import regime_of_fit
from rl.calibration.replay import LEAST_DAYS, dearness, replay
from rl.greedy import Greedy
from rl.live.judging import judge
from rl.live.log import Log, LoggedFleet, LoggedStep
from rl.live.nightly import _ratio
from rl.live.stored_log import _paused
from rl.parameters import load_parameters, of_the_cloud
from rl.promotion import Standing
from rl.simulator import Order
from rl.statistics import Ratio
from rl.view import BUY, KEEP, PREWARM, View
from tests.unit.rl.live.logs import BEGIN, DAY, PRICE, log_of

LOG = log_of()
IDLE = 900.0
GIVEN: dict[str, dict[str, Any]] = {
    "home": {"memory_gb": 16.0, "cores": 8.0, "user_gb": [5.0, 9.0]},
    "spot": {"machines": 2, "dollars_per_hour": PRICE},
    "costs": {"day_dollars": 4.0, "month_dollars": 40.0},
}
FIT = fit_log(LOG)
REGIME = regime_of_fit(FIT, GIVEN)
WEEK = LOG.since(BEGIN + 14 * DAY)


def true_days(log: Log = WEEK, **fields: Any) -> list[ReplayDay]:
    return days_of_log(log, FIT, REGIME, "log", **fields)


def greedy() -> Greedy:
    return Greedy(of_the_cloud(load_parameters(), IDLE))


# ---------------------------------------------------------------------- what was known before


def test_a_log_is_cut_with_its_machines() -> None:
    at = BEGIN + 7 * DAY
    fleet = LoggedFleet(
        ((at - 50.0, at - 10.0), (at - 5.0, at + 95.0), (at + 1.0, at + 61.0)),
        2, (80.0, 90.0, 100.0), PRICE, (at - 3.0, at + 3.0), (at - 40.0, at + 2.0, at + 4.0),
    )  # fmt: skip
    cut = Log(LOG.decisions, LOG.workflows, fleet).until(at)
    assert cut.fleet.intervals == ((at - 50.0, at - 10.0), (at - 5.0, at))
    assert (cut.fleet.losses, cut.fleet.boots) == (1, (80.0,))
    assert (cut.fleet.lost_at, cut.fleet.joined_at) == ((at - 3.0,), (at - 40.0,))
    assert {one.finished_at < at for one in cut.workflows} == {True}  # type: ignore[operator]
    assert len(cut.workflows) in (83, 84)


def test_what_a_file_of_an_earlier_release_does_not_date_is_shared_by_hours() -> None:
    fleet = LoggedFleet(((0.0, 30.0), (60.0, 70.0)), 4, (1.0, 2.0, 3.0, 4.0), PRICE)
    cut = fleet.until(50.0)
    assert (cut.losses, cut.boots) == (3, (1.0, 2.0, 3.0))
    assert LoggedFleet().until(5.0) == LoggedFleet()


def test_the_week_is_not_predicted_from_its_own_losses() -> None:
    """Machines that are lost in the last week alone must not be believed in before it."""
    late = (BEGIN + 20 * DAY,) * 40
    lost = replace(LOG, fleet=replace(LOG.fleet, losses=40, lost_at=late))
    assert fit_log(lost).hazard_per_hour > 10 * FIT.hazard_per_hour / 3
    assert fit_log(lost.until(BEGIN + 14 * DAY)).losses == 1.0
    assert judge(lost, BEGIN + 21 * DAY, GIVEN).misfit == judge(LOG, BEGIN + 21 * DAY, GIVEN).misfit


# ---------------------------------------------------------------------- the figures


def test_medians_are_of_all_workflows_on_both_sides() -> None:
    """Six busy days of one and a quiet one of the other: no mean of the days' medians."""
    keep = {day: 12 if day == 20 else 1 for day in range(14, 21)}
    some = [
        one for one in WEEK.workflows if int(one.id.split("-")[2]) < keep[int(one.id.split("-")[1])]
    ]
    log = replace(WEEK, workflows=tuple(some))
    days = true_days(log)
    found = replay(days, log).figures["median flow time, seconds"]
    flows = np.concatenate([lived(one.day, greedy(), IDLE).flows for one in days])
    assert len(flows) == len(some)
    logged = np.median([one.finished_at - one.created_at for one in some])  # type: ignore[operator]
    assert found.logged == pytest.approx(logged)
    assert found.simulated == pytest.approx(found.logged, rel=0.05)


def test_machines_without_a_routed_step_are_not_routings() -> None:
    own = replay(true_days(), WEEK).figures["machines, USD"].logged
    agents = (BEGIN + 15 * DAY + 40.0, BEGIN + 15 * DAY + 50.0)
    more = replace(WEEK, fleet=replace(WEEK.fleet, intervals=(*WEEK.fleet.intervals, agents)))
    assert replay(true_days(), more).figures["machines, USD"].logged == pytest.approx(own)
    none = replace(WEEK, workflows=tuple(_at_home(one) for one in WEEK.workflows))
    assert replay(true_days(none), none).figures["machines, USD"].logged == 0.0


def _at_home(workflow: Any) -> Any:
    return replace(workflow, steps=tuple(replace(one, place="local") for one in workflow.steps))


def test_a_pause_is_nobodys_time() -> None:
    hour = 3600.0
    paused = tuple(
        replace(one, finished_at=one.finished_at + hour, paused_seconds=hour)  # type: ignore[operator]
        for one in WEEK.workflows
    )
    own, other = (replay(true_days(), one) for one in (WEEK, replace(WEEK, workflows=paused)))
    assert replay(true_days(replace(WEEK, workflows=paused)), WEEK).workflows == own.workflows
    held = replay(true_days(replace(WEEK, workflows=paused)), replace(WEEK, workflows=paused))
    for name in ("median flow time, seconds", "deadlines kept, share"):
        assert held.figures[name].logged == pytest.approx(other.figures[name].logged)


def test_what_a_step_takes_beside_its_function_is_fitted() -> None:
    slow = replace(LOG, workflows=tuple(_later(one, 2.0) for one in LOG.workflows))
    assert overhead_of(slow) == Overhead(pytest.approx(2.0), pytest.approx(2.0))  # type: ignore[arg-type]
    assert overhead_of(LOG) == Overhead(pytest.approx(0.0, abs=1e-3), pytest.approx(0.0, abs=1e-3))  # type: ignore[arg-type]
    assert overhead_of(Log()) == Overhead()
    plain, fitted = true_days(), true_days(overhead=Overhead(2.0, 3.0))
    for one, other in zip(plain[0].day.workflows, fitted[0].day.workflows, strict=True):
        for step, more in zip(one.steps, other.steps, strict=True):
            assert more.home_seconds == pytest.approx(step.home_seconds + 2.0)
            assert more.cloud_mean == pytest.approx(step.cloud_mean + 3.0)


def test_a_machines_first_step_has_waited_for_the_machine() -> None:
    """Each machine runs a step that waits 90 s for it, and one that does not."""
    steps = tuple(
        LoggedStep("a", "function", "f", (), started_at=0.0, ended_at=ended, seconds=10.0,
                   place="spot", node=f"n{node}")
        for node in range(6)
        for ended in (100.0, 111.0)
        if node or ended < 105.0
    )  # fmt: skip
    first = (replace(steps[0], node=f"m{number}") for number in range(4))
    log = replace(LOG, workflows=(replace(LOG.workflows[0], steps=(*steps, *first)),))
    assert overhead_of(log).cloud == 101.0


def test_pauses_are_summed_up_to_the_end() -> None:
    told = [SimpleNamespace(kind=kind, at=at) for kind, at in (
        ("paused", 1.0), ("paused", 2.0), ("step_started", 3.0), ("resumed", 5.0), ("resumed", 6.0),
        ("paused", 9.0),
    )]  # fmt: skip
    assert _paused(told, 12.0) == 7.0
    assert _paused(told[:-1], 12.0) == 4.0
    assert _paused([], 12.0) == 0.0


def _later(workflow: Any, seconds: float) -> Any:
    steps = tuple(replace(one, ended_at=one.ended_at + seconds) for one in workflow.steps)
    return replace(workflow, steps=steps)


def test_steps_that_wait_for_others_hold_no_core() -> None:
    """Twenty calls of a service at once take as long as one, on a head of eight cores."""
    first = WEEK.workflows[0]
    call = LoggedStep("c", "http", "http", (), seconds=100.0, started_at=first.created_at,
                      ended_at=first.created_at + 100.0)  # fmt: skip
    calls = replace(first, steps=(call,) * 20, finished_at=first.created_at + 100.0)
    [day] = true_days(replace(WEEK, workflows=(calls,)))
    assert lived(day.day, greedy(), IDLE).flows[0] == pytest.approx(100.0, rel=0.01)


# ---------------------------------------------------------------------- the price of a policy


class Watcher:
    """The first that is allowed; notes what it could have done."""

    name: str = "watcher"
    order: Order = "fifo"

    def __init__(self) -> None:
        self.could_prewarm = self.could_buy_beside = self.could_buy = False

    def choose(self, view: View, mask: Sequence[bool]) -> int:
        step = view.step
        self.could_prewarm |= mask[PREWARM]
        self.could_buy |= mask[BUY]
        beside = step is not None and any(has_room(one, step) for one in view.machines)
        self.could_buy_beside |= beside and mask[BUY]
        if step is None:
            return KEEP
        return BUY if mask[BUY] and not self.could_buy_beside else list(mask).index(True)


def test_the_running_systems_limits_are_the_simulations() -> None:
    free, bound = Watcher(), Watcher()
    [day, *_] = true_days()
    lived(day.day, free, IDLE)
    lived(day.day, AsLive(bound, IDLE), IDLE)
    assert (free.could_buy, free.could_prewarm, free.could_buy_beside) == (True, True, True)
    assert (bound.could_buy, bound.could_prewarm, bound.could_buy_beside) == (True, False, False)


def test_a_machine_is_paid_for_until_its_idle_time_is_over() -> None:
    log = replace(WEEK, workflows=WEEK.workflows[:1])
    [day] = true_days(log)
    short, long = (lived(day.day, AsLive(AlwaysCloud(), idle), idle) for idle in (60.0, 3600.0))
    assert long.dollars - short.dollars > 0.9 * (3600.0 - 120.0) / 3600.0 * PRICE
    tuned = of_the_cloud(load_parameters(), IDLE)
    assert (tuned.tail_seconds, tuned.idle_seconds) == (IDLE, IDLE)


def test_the_tuned_policys_own_week_is_no_alarm() -> None:
    """What it did cost what it would cost, whatever the simulator gets wrong."""
    ratio = dearness(true_days(), greedy, IDLE)
    assert ratio is not None
    assert ratio.low <= ratio.mean <= ratio.high
    slow = replace(WEEK, workflows=tuple(_later(one, 30.0) for one in WEEK.workflows))
    assert dearness(true_days(slow), greedy, IDLE) == ratio, "the error is in both"
    home = replace(WEEK, workflows=tuple(_at_home(one) for one in WEEK.workflows))
    cheap = dearness(true_days(home), greedy, IDLE)
    assert cheap is not None
    assert cheap.mean < ratio.mean
    assert dearness(true_days()[: LEAST_DAYS - 1], greedy, IDLE) is None


def test_the_ratio_counts_where_a_learned_policy_has_decided_for_a_week() -> None:
    found = replace(judge(Log(), BEGIN, GIVEN), misfit="", cost_ratio=Ratio(1.2, 1.1, 1.3, 1.2))
    stands = Standing("half", policy="p", since=BEGIN - 8 * DAY)
    assert _ratio(found, stands, BEGIN) == 1.1, "its lower end"
    for other in (
        Standing(),
        replace(stands, stage="off"),
        replace(stands, stage="shadow"),
        replace(stands, since=BEGIN - 6 * DAY),
    ):
        assert _ratio(found, other, BEGIN) is None
    assert _ratio(replace(found, misfit="bad"), stands, BEGIN) is None
