"""Attempts that may still be at it: nothing is undone and nothing tried again meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from actors.workflow import outcomes, requests
from actors.workflow.events import Event
from ironcliw.errors import ConflictError
from tests.unit.actors.workflow.runs import FUNCTION, UNDO, Run, items_that_were_lost


def test_what_may_still_be_at_it_is_not_undone_before_somebody_says_so() -> None:
    run = Run({"a": {**FUNCTION, "compensate": UNDO}, "b": {**FUNCTION, "compensate": UNDO}})
    run.start()
    run.succeed("b")
    requests.cancel(run.machine, 1.0)
    assert run.fail("a", "unstopped") == ["step_uncertain"]
    assert (run.status, run.start(), run.step("a").status) == ("uncertain", [], "uncertain")
    with pytest.raises(ConflictError, match="step 'a' may still be at it: skip it when it has"):
        requests.retry(run.machine, "a", None, 2.0)
    assert run.note(requests.skip(run.machine, "a", None, None, 2.0)) == ["step_waived"]
    assert run.start() == ["undo a"]
    run.succeed("undo a")
    assert run.start() == ["undo b"]
    assert run.succeed("undo b") == ["compensation_completed", "cancelled"]


def test_what_nothing_undoes_need_not_have_stopped() -> None:
    run = Run({"a": FUNCTION})
    run.start()
    requests.cancel(run.machine, 1.0)
    assert run.fail("a", "unstopped") == ["step_failed", "cancelled"]


def test_what_may_still_be_at_it_when_its_time_is_over_is_uncertain() -> None:
    run = Run({"a": {**FUNCTION, "retry": {"attempts": 2}}, "b": FUNCTION})
    run.start()
    assert run.fail("a", "unstopped") == ["step_uncertain"]
    run.note(requests.cancel(run.machine, 1.0))
    run.stop()
    assert run.status == "cancelled", "it is as any other of which nobody knows"


@pytest.mark.parametrize("turn", ["cancel", "deadline", "failure"])
def test_what_may_still_be_at_it_is_held_whatever_turns_the_workflow(turn: str) -> None:
    run = Run({"a": {**FUNCTION, "compensate": UNDO}, "b": FUNCTION}, deadline=50.0)
    run.start()
    assert run.fail("a", "unstopped") == ["step_uncertain"]
    match turn:
        case "cancel":
            run.note(requests.cancel(run.machine, 1.0))
        case "deadline":
            run.note(outcomes.settle(run.machine, 50.0))
        case _:
            run.fail("b")
    run.stop()
    assert (run.status, run.start(), run.step("a").status) == ("uncertain", [], "uncertain")
    with pytest.raises(ConflictError, match="step 'a' may still be at it: skip it when it has"):
        requests.retry(run.machine, "a", None, 60.0)
    assert run.note(requests.skip(run.machine, "a", None, None, 60.0)) == ["step_waived"]
    assert run.start() == ["undo a"]


@pytest.mark.parametrize("turn", ["cancel", "deadline", "failure"])
def test_nothing_stays_uncertain_of_which_nobody_can_be_asked(turn: str) -> None:
    run = Run({"a": {**FUNCTION, "on_failure": "continue"}, "b": FUNCTION}, deadline=50.0)
    run.start()
    assert run.fail("a", "unstopped") == ["step_uncertain"]
    match turn:
        case "cancel":
            run.note(requests.cancel(run.machine, 50.0))
        case "deadline":
            run.note(outcomes.settle(run.machine, 50.0))
        case _:
            run.now = 50.0
            run.fail("b")
    run.stop()
    assert run.status == ("cancelled" if turn == "cancel" else "failed")
    step = run.step("a")
    assert (step.status, step.finished_at) == ("failed", 50.0)
    assert step.error is not None and step.error.kind == "unstopped", "why is still told"


def test_of_a_fan_out_what_is_uncertain_has_failed_when_the_workflow_turns() -> None:
    run = items_that_were_lost()
    assert run.step("a").items_done == 1
    run.note(requests.cancel(run.machine, 1.0))
    step = run.step("a")
    assert (step.status, step.items_done, step.uncertain_items) == ("failed", 4, [])


def test_what_an_earlier_release_let_skip_counts_once() -> None:
    run = items_that_were_lost()
    run.note(requests.cancel(run.machine, 1.0))
    run.machine.apply(Event("step_waived", 2.0, "a", 0, 1, {"value": None}))
    assert run.step("a").items_done == 4


def test_what_is_uncertain_otherwise_is_undone_when_the_workflow_turns() -> None:
    run = Run({"a": {**FUNCTION, "compensate": UNDO}})
    run.start()
    assert run.fail("a", "lost") == ["step_uncertain"]
    run.note(requests.cancel(run.machine, 1.0))
    assert run.start() == ["undo a"]


def test_an_idempotent_step_that_may_still_be_at_it_is_not_tried_again_by_itself() -> None:
    steps = {"a": {**FUNCTION, "compensate": UNDO, "retry": {"attempts": 2}}, "b": FUNCTION}
    run = Run(steps)
    run.start(idempotent=True)
    assert run.fail("a", "unstopped") == ["step_uncertain"]
    run.note(requests.retry(run.machine, "a", None, 1.0))
    assert run.start(idempotent=True) == ["a"]
    assert run.fail("a", "error", retryable=False) == ["step_failed"]
    run.stop()
    assert run.start() == ["undo a"], "a user has said that nothing is at it"


def test_an_idempotent_step_that_nothing_undoes_is_tried_again() -> None:
    run = Run({"a": {**FUNCTION, "retry": {"attempts": 2}}})
    run.start(idempotent=True)
    assert run.fail("a", "unstopped") == ["step_failed"]
    run.now = 100.0
    assert run.start(idempotent=True) == ["a"]


def test_a_step_that_may_have_acted_once_is_undone_after_its_last_failure() -> None:
    run = Run({"a": {**FUNCTION, "compensate": UNDO, "retry": {"attempts": 2}}})
    run.start(idempotent=True)
    run.fail("a", "timeout")
    run.now = 100.0
    run.start(idempotent=True)
    assert run.fail("a", "error") == ["step_failed"]
    assert run.start() == ["undo a"]


AGENT = {"agent": "write"}
TRAIN = {"train": {"recipe": "merge"}}


@pytest.mark.parametrize("step", [AGENT, TRAIN])
def test_what_outlives_its_orchestrator_is_stopped_before_it_is_undone(step: Any) -> None:
    run = Run({"a": {**step, "compensate": UNDO}})
    run.start()
    run.note(requests.cancel(run.machine, 1.0))
    assert run.note(outcomes.recover(run.machine, 2.0)) == []
    assert (run.status, run.start()) == ("cancelling", [])
    run.stop()
    assert run.step("a").status == "cancelled"
    assert run.start() == ["undo a"]


def test_what_outlives_its_orchestrator_and_does_not_stop_is_uncertain() -> None:
    run = Run({"a": {**AGENT, "compensate": UNDO}})
    run.start()
    run.note(requests.cancel(run.machine, 1.0))
    outcomes.recover(run.machine, 2.0)
    assert run.fail("a", "unstopped") == ["step_uncertain"]
    assert run.start() == []


@pytest.mark.parametrize(("idempotent", "kind"), [(True, "failed"), (False, "uncertain")])
def test_what_an_agent_is_at_is_stopped_before_another_attempt(idempotent: bool, kind: str) -> None:
    run = Run({"a": {**AGENT, "compensate": UNDO}, "b": AGENT, "c": TRAIN})
    run.start(idempotent=True)
    run.unit("a").idempotent = idempotent
    # what nothing undoes may go on; the next attempt of training goes on with its job
    assert run.note(outcomes.recover(run.machine, 2.0)) == ["step_failed"] * 2
    run.now = 2.0
    assert run.start(idempotent=True) == ["b", "c"]
    unit = run.unit("a")
    assert run.note(outcomes.stop(run.machine, unit, 1, 3.0)) == [f"step_{kind}"]
    assert unit.error is not None
    assert unit.error["kind"] == "restarted", "it may be undone"


def test_a_job_that_nobody_takes_care_of_may_still_be_at_it() -> None:
    run = Run({"a": {**TRAIN, "idempotent": False, "compensate": UNDO}})
    run.start()
    assert run.note(outcomes.recover(run.machine, 2.0)) == ["step_uncertain"]
    run.note(requests.cancel(run.machine, 3.0))
    assert (run.status, run.start()) == ("uncertain", [])
