"""What the running system lets a policy see, and what it refuses beside the guardrails."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors.situation import HomeFacts, MoneyFacts, Ready, RunFacts, Situation
from rl.calibration.fit import prior
from rl.features import features
from rl.live.beliefs import NO_DEADLINE_SECONDS
from rl.live.views import LiveView, LiveViews
from rl.view import BUY, FIRST_MACHINE, HOME, WAIT
from tests.unit.rl.live.situations import (
    MACHINE,
    MONEY,
    NOW,
    PLAN,
    run_of,
    situation_of,
    step_of,
    with_machines,
)


def seen(situation: Situation | None = None, **fields: Any) -> LiveView:
    return LiveViews(prior()).build(situation or situation_of(**fields))


def test_the_step_is_what_its_author_and_the_fit_say() -> None:
    step = seen().view.step
    assert step is not None
    assert step.memory_p95_gb == pytest.approx(2.0), "what is stated is a bound"
    assert step.memory_mean_gb < 2.0
    assert step.home_seconds == pytest.approx(100.0), "half take longer, as in the simulator"
    assert step.cloud_seconds > step.home_seconds
    assert step.after_seconds == pytest.approx(50.0)
    assert (step.fan_out, step.waited, step.deadline_in) == (1, 1.0, 1000.0)
    far = seen(step={"deadline": NOW + 1e6}).view.step
    assert far is not None
    assert far.deadline_in == NO_DEADLINE_SECONDS, "training has seen none beyond"
    last = seen(step={"ready": Ready(NOW, PLAN, 1), "losses": 2}).view.step
    assert last is not None
    assert (last.after_seconds, last.fan_out, last.spot_losses) == (0.0, 0, 2)


def test_every_feature_is_a_number_whatever_is_not_known() -> None:
    bare = situation_of(
        step={"deadline": None, "memory_gb": None, "expected_seconds": None, "ready": Ready(NOW)},
        money=None,
        machines=(),
        has_cloud=False,
    )
    for situation in (bare, replace(bare, money=MoneyFacts(0.06), has_cloud=True)):
        live = seen(situation)
        assert live.view.step is not None
        assert live.view.step.deadline_in == NO_DEADLINE_SECONDS
        context, options = features(live.view, live.mask, [0.0] * 11)
        assert np.isfinite(context).all()
        assert np.isfinite(options).all()


def test_memory_of_a_step_that_runs_for_a_short_while_is_not_counted_as_free() -> None:
    # believed to run for five minutes; nobody has measured what it holds
    for seconds, free in ((1.0, 9.0), (20.0, 9.0), (140.0, 9.0), (250.0, 10.0)):
        home = seen(home=HomeFacts(16.0, 10.0, 8.0, (run_of(since=NOW - seconds),))).view.home
        assert home.free_gb == pytest.approx(free), "what it holds later is not available any more"
        assert home.room_gb == pytest.approx(free + 1.0)


def test_steps_that_come_one_after_the_other_do_not_share_what_the_first_has_not_taken() -> None:
    # each holds little at first and 4 GB at its end; 10 GB are available, 1.5 stay free
    runs: tuple[RunFacts, ...] = ()
    placed = 0
    for number in range(4):
        at = NOW + 20.0 * number
        home = HomeFacts(16.0, 10.0 - 0.5 * len(runs), 8.0, runs, {"f": 0.5 * len(runs)})
        live = seen(situation_of(at=at, home=home, step={"memory_gb": 4.0}))
        if live.mask[HOME]:
            placed += 1
            runs = (*runs, run_of(memory_gb=4.0, since=at))
    assert placed == 2


def test_what_a_step_holds_is_taken_off_what_is_kept_for_it() -> None:
    runs = (run_of("f", memory_gb=4.0), run_of("f", memory_gb=4.0), run_of("g", memory_gb=1.0))

    def free(**held: float) -> float:
        return seen(home=HomeFacts(64.0, 10.0, 8.0, runs, held)).view.home.free_gb

    assert free() == pytest.approx(1.0)
    assert free(f=3.0, g=0.5) == pytest.approx(4.5)
    assert free(f=60.0) == pytest.approx(9.0), "one that holds more than believed frees nothing"
    assert free(h=2.0) == pytest.approx(1.0), "it has ended"


def test_machines_are_ordered_and_carry_what_runs_there() -> None:
    busy = replace(MACHINE, node="n2", free_gb=5.0, runs=(run_of(),), idle_since=None)
    going = replace(MACHINE, node="n3", state="leaving", free_gb=30.0)
    boots = replace(MACHINE, node="", state="booting", since=NOW - 30, done=frozenset())
    live = seen(with_machines(going, boots, busy, replace(MACHINE, done=frozenset({"f"}))))
    assert live.nodes == ("n1", "n2", "")
    idle, second, third = live.view.machines
    assert idle is not None and second is not None and third is not None
    assert (idle.busy_seconds, idle.idle_seconds, idle.warm) == (0.0, 60.0, {"function"})
    assert second.busy_seconds > 100
    assert second.free_gb == 5.0, "Ray's word counts where it is less"
    assert (third.state, third.ready_in) == ("booting", 60.0)


def test_the_hour_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    try:
        assert seen().view.now == (NOW - 5 * 3600) % 86_400
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_step_that_ran_out_of_memory_is_believed_to_need_more() -> None:
    sizes = []
    for times in range(4):
        live = seen(step={"memory_gb": 4.0, "out_of_memory": times})
        assert live.view.step is not None
        sizes.append(live.view.step.memory_p95_gb)
        assert live.mask[HOME] == (sizes[-1] <= 8.5)
    assert sizes == [pytest.approx(one) for one in (4.0, 6.0, 9.0, 9.0)]
    runs = (run_of(memory_gb=4.0, out_of_memory=1),)
    home = seen(home=HomeFacts(16.0, 10.0, 8.0, runs, {})).view.home
    assert home.free_gb == pytest.approx(4.0), "and where it runs, as much is kept for it"


def test_money_and_risk() -> None:
    money = seen(money=replace(MONEY, losses=3, exposed_hours=60.0, boots=(30.0,) * 3)).view.money
    assert money.hazard_per_hour == pytest.approx(0.04)
    assert money.boot_seconds == pytest.approx(60.0)
    assert (money.day_left, money.month_left) == (pytest.approx(0.3), pytest.approx(11.0))
    assert math.isinf(money.stocked_out_seconds)
    late = seen(money=replace(MONEY, refused_at=NOW - 40.0)).view.money
    assert late.stocked_out_seconds == 40.0


@pytest.mark.parametrize(
    ("fields", "action", "reason"),
    [
        ({}, BUY, "a machine has room, and Ray would start it there"),
        ({"has_cloud": False, "machines": ()}, BUY, "there is no cloud: cloud.project is not set"),
        ({"money": None}, FIRST_MACHINE, "machines and money have not been read yet"),
        ({"age": 61.0}, FIRST_MACHINE, "machines and money have not been read yet"),
        ({"step": {"place": "local"}}, FIRST_MACHINE, "the step is to run at home"),
        ({"step": {"place": "private"}}, FIRST_MACHINE, "the step is private"),
        ({"step": {"place": "spot"}}, HOME, "the step is to run on a machine"),
        ({"may_wait": False}, WAIT, "it is asked about for the last time"),
        ({"machines": (), "money": replace(MONEY, no_purchase="the ledger would")}, BUY,
         "the ledger would"),
        ({"step": {"memory_gb": 9.0}}, HOME, "its memory may not fit beside the reserve"),
        ({"step": {"deadline": NOW - 1.0}}, WAIT, "its deadline has passed, and it has a place"),
        ({"machines": (), "machine_gb": 1.9}, BUY, "its memory may not fit on the machine"),
        ({"most_machines": 1, "step": {"memory_gb": 29.0}}, BUY,
         "there are as many machines as may be"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why(fields: dict[str, Any], action: int, reason: str) -> None:
    assert seen(**fields).reasons[action] == reason


def test_a_step_of_milliseconds_waits_for_nothing_but_a_busy_head() -> None:
    short = {"expected_seconds": 0.01}
    soon = "it is over at home before it would be asked about again"
    assert seen(step=short).reasons[WAIT] == soon
    assert seen(step={"expected_seconds": 5.0}).reasons[WAIT] is None
    busy = HomeFacts(16.0, 10.0, 2.0, runs=(run_of(),))
    assert seen(step=short, home=busy).reasons[WAIT] is None
    full = HomeFacts(16.0, 1.6, 8.0)
    assert seen(step=short, home=full).reasons[WAIT] is None, "it has no room"


def test_where_nothing_has_room_a_machine_may_be_bought() -> None:
    full = replace(MACHINE, free_gb=1.0, runs=(run_of(memory_gb=27.0),))
    live = seen(with_machines(full))
    assert live.reasons[BUY] is None
    assert live.reasons[FIRST_MACHINE] == "its memory may not fit on the machine"


def test_a_place_that_only_the_system_refuses_leaves_waiting() -> None:
    large = {"memory_gb": 12.0, "deadline": NOW - 5.0}
    live = seen(step=large, machines=(), has_cloud=False)
    assert [action for action, free in enumerate(live.mask) if free] == [WAIT]
    assert live.forced == ""


@pytest.mark.parametrize(("place", "action"), [("any", HOME), ("spot", BUY)])
def test_nobody_waits_for_ever(place: Any, action: int) -> None:
    stuck = step_of(memory_gb=40.0, place=place, ready=Ready(NOW - 3700.0, PLAN), deadline=None)
    live = seen(step=stuck)
    assert [one for one, free in enumerate(live.mask) if free] == [action]
    assert "memory may not fit" in live.forced
    soon = seen(step=replace(stuck, ready=Ready(NOW - 3500.0, PLAN)))
    assert [one for one, free in enumerate(soon.mask) if free] == [WAIT]
    last = seen(step=replace(stuck, ready=Ready(NOW, PLAN)), may_wait=False)
    assert [one for one, free in enumerate(last.mask) if free] == [action]
