"""Steps to come: how soon one that cannot run at home is ready, by plans and what is under way."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from actors.orchestration.asking import plan_of
from actors.situation import Plan, Ready
from actors.workflow.definition import define
from rl.calibration.fit import CLOUD, HOME, LogNormal, prior
from rl.live.beliefs import LiveBeliefs
from rl.live.coming import Plans, first_large
from rl.live.views import LiveViews
from tests.unit.rl.live.situations import run_of, situation_of, step_of

# a: 100 s, then b: 50 s, then c: 12 GB; d: 30 s beside b, before c
PLAN = Plan(("a", "b", "d", "c"), (100.0, 50.0, 30.0, 10.0), ((1, 2), (3,), (3,), ()),
            (1.0, 1.0, 1.0, 12.0))  # fmt: skip
ROOM = 8.0


def beliefs() -> LiveBeliefs:
    """Of which what an author gave is the truth."""
    known = {
        name: {place: LogNormal(math.log(seconds), 0.0, 1000) for place in (HOME, CLOUD)}
        for name, seconds in zip(PLAN.targets, (100.0, 50.0, 30.0, 10.0), strict=True)
    }
    return LiveBeliefs(replace(prior(), durations=known))


def soon(*active: tuple[int, float], plan: Plan = PLAN) -> float:
    steps = [("w", Ready(0.0, plan, index), end) for index, end in active]
    return first_large(steps, Plans(beliefs()), ROOM)


def test_it_is_ready_when_the_longest_of_its_ways_is_gone() -> None:
    assert soon((0, 60.0)) == pytest.approx(60.0 + 50.0)
    assert soon((1, 50.0), (2, 70.0)) == pytest.approx(70.0)
    assert soon((1, 5.0)) == pytest.approx(5.0), "what is not under way beside it has ended"
    assert soon((1, 25.0), (1, 5.0)) == pytest.approx(25.0), "of two items the longer one"


def test_what_is_ready_small_or_elsewhere_does_not_count() -> None:
    assert soon((3, 10.0)) == math.inf, "it waits or runs itself"
    assert soon((0, 60.0), plan=replace(PLAN, memory_gb=(1.0, 1.0, 1.0, 2.0))) == math.inf
    assert soon((0, 60.0), plan=replace(PLAN, memory_gb=(1.0, 1.0, 1.0, 0.0))) == math.inf
    assert soon((0, 60.0), plan=replace(PLAN, memory_gb=(12.0, 1.0, 1.0, 1.0))) == math.inf
    assert soon() == math.inf
    assert first_large([("w", None, 3.0)], Plans(beliefs()), ROOM) == math.inf


def test_workflows_of_one_plan_are_told_apart() -> None:
    steps = [("w", Ready(0.0, PLAN, 0), 60.0), ("v", Ready(0.0, PLAN, 1), 5.0)]
    assert first_large(steps, Plans(beliefs()), ROOM) == pytest.approx(5.0)


def test_a_plan_that_cannot_be_believed_hides_no_other() -> None:
    odd = replace(PLAN, memory_gb=(1.0, 1.0, 1.0, math.nan))
    steps = [("w", Ready(0.0, odd, 0), 60.0), ("v", Ready(0.0, PLAN, 1), 5.0)]
    assert first_large(steps, Plans(beliefs()), ROOM) == pytest.approx(5.0)


def test_a_plan_tells_memory_of_functions_alone() -> None:
    definition = define(
        {"name": "flow", "steps": {
            "one": {"function": "f", "memory_gb": 3.0},
            "two": {"function": "g"},
            "three": {"generate": {"prompt": "${steps.one}"}},
        }}
    )  # fmt: skip
    found = plan_of(definition)
    assert dict(zip(found.targets, found.memory_gb, strict=True))["f"] == 3.0
    assert dict(zip(found.targets, found.memory_gb, strict=True))["g"] is None
    assert found.memory_gb.count(0.0) == 1


def test_a_view_tells_of_a_large_step_to_come() -> None:
    views = LiveViews(beliefs().fit)
    run = run_of("a", ready=Ready(0.0, PLAN, 0), workflow_id="w")
    step = step_of(target="other", ready=Ready(0.0, None, 0))
    situation = situation_of(step=step)
    home = replace(situation.home, runs=(run,))
    far = views.build(situation).view.large_in
    near = views.build(replace(situation, home=home)).view.large_in
    assert far == math.inf
    assert 50.0 < near < 200.0
