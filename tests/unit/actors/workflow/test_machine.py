"""What follows from each outcome and request, one step of a workflow after the other."""

from __future__ import annotations

from typing import Any

import pytest

from actors.workflow import outcomes, requests
from actors.workflow.limits import Limits
from actors.workflow.tasks import REFERENCE_KEY, FailureKind, StepError, StepResult
from ironcliw.errors import ConflictError, NotFoundError, RequestError
from tests.unit.actors.workflow.runs import FUNCTION, UNDO, Run, items_that_were_lost


def test_steps_follow_one_another() -> None:
    run = Run({"a": FUNCTION, "b": {**FUNCTION, "with": {"x": "${steps.a}"}}, "c": FUNCTION})
    assert run.start() == ["a", "c"]
    assert run.succeed("a", {"n": 1}) == ["step_completed"]
    assert run.start() == ["b"]
    run.succeed("c")
    assert run.succeed("b", "done") == ["step_completed", "completed"]
    assert run.status == "completed"
    assert run.machine.output == {"b": "done", "c": None}
    assert run.machine.wake_at() is None


def test_a_condition_skips_a_step_and_what_follows_sees_null() -> None:
    run = Run(
        {
            "a": FUNCTION,
            "b": {**FUNCTION, "when": "${steps.a} > 5"},
            "c": {**FUNCTION, "with": {"x": "${steps.b.deep.down}"}},
        }
    )
    run.start()
    assert run.succeed("a", 5) == ["step_completed", "step_skipped"]
    assert run.step("b").status == "skipped"
    assert run.start() == ["c"]


def test_a_condition_that_cannot_be_decided_fails_the_step() -> None:
    run = Run({"a": FUNCTION, "b": {**FUNCTION, "when": "${steps.a} > 5"}})
    run.start()
    assert run.succeed("a", "text") == ["step_completed", "step_failed", "failed"]
    error = run.step("b").error
    assert error is not None
    assert "have no order" in error.message


def test_a_failed_step_is_tried_again_later_and_later() -> None:
    retry = {"attempts": 3, "backoff_seconds": 10, "factor": 3, "max_seconds": 20}
    run = Run({"a": {**FUNCTION, "retry": retry}})
    waits = []
    for _ in range(2):
        assert run.start() == ["a"]
        run.fail("a")
        assert run.start() == []
        at = run.machine.wake_at()
        assert at is not None
        waits.append(at - run.now)
        run.now = at
    assert 5 <= waits[0] <= 10
    assert 10 <= waits[1] <= 20
    assert run.step("a").status == "waiting"
    assert run.start() == ["a"]
    assert run.fail("a") == ["step_failed", "failed"]
    assert run.step("a").attempts == 3


def test_waits_are_spread_and_the_same_in_every_replay() -> None:
    retry = {"attempts": 2, "backoff_seconds": 10}
    steps = {"a": {**FUNCTION, "for_each": "${inputs.list}", "retry": retry}}

    def waits() -> list[float]:
        run = Run(steps, inputs=list(range(20)))
        for text in run.start():
            run.fail(text)
        return [event.data["retry_at"] for event in run.events if event.kind == "step_failed"]

    assert waits() == waits()
    assert len(set(waits())) == 20


def test_what_cannot_succeed_is_not_tried_again() -> None:
    run = Run({"a": {**FUNCTION, "retry": {"attempts": 5}}})
    run.start()
    assert run.fail("a", retryable=False) == ["step_failed", "failed"]


def test_an_executor_may_ask_for_a_longer_wait() -> None:
    run = Run({"a": {**FUNCTION, "retry": {"attempts": 2, "backoff_seconds": 1}}})
    run.start()
    error = StepError("refused", "busy", retry_after=99.0)
    unit = run.unit("a")
    run.note(outcomes.fail(run.machine, unit, unit.attempt, error, 0.0))
    assert run.machine.wake_at() == 99.0


@pytest.mark.parametrize("kind", ["lost", "moved", "restarted", "timeout"])
def test_of_a_step_that_must_not_be_repeated_the_user_decides(kind: FailureKind) -> None:
    run = Run({"a": {**FUNCTION, "retry": {"attempts": 5}}, "b": {**FUNCTION, "after": ["a"]}})
    run.start()
    assert run.fail("a", kind) == ["step_uncertain"]
    assert (run.status, run.step("a").status, run.start()) == ("uncertain", "uncertain", [])
    run.note(requests.retry(run.machine, "a", None, 1.0))
    assert (run.status, run.start()) == ("running", ["a"])
    run.fail("a", kind)
    run.note(requests.skip(run.machine, "a", None, {"x": 1}, 2.0))
    assert (run.step("a").status, run.step("a").output) == ("waived", {"x": 1})
    assert run.start() == ["b"]


@pytest.mark.parametrize(("kind", "wait"), [("moved", 0), ("restarted", 0), ("lost", 0)])
def test_a_step_that_may_be_repeated_is_started_again_at_once(
    kind: FailureKind, wait: float
) -> None:
    run = Run({"a": FUNCTION})
    run.start(idempotent=True)
    assert run.fail("a", kind) == ["step_failed"]
    assert run.machine.wake_at() == run.now + wait
    assert run.start(idempotent=True) == ["a"]
    assert run.unit("a").attempt == 2


def test_a_step_that_loses_each_machine_it_gets_fails_in_the_end() -> None:
    run = Run({"a": FUNCTION}, limits=Limits(losses=3))
    for _ in range(3):
        run.start(idempotent=True)
        run.fail("a", "lost")
        run.now = run.machine.wake_at() or run.now
    assert run.status == "failed"
    assert run.now == 1.0  # the second wait; the first was none


def test_a_late_result_of_an_earlier_attempt_is_dropped() -> None:
    run = Run({"a": {**FUNCTION, "retry": {"attempts": 2}}})
    run.start(idempotent=True)
    unit = run.unit("a")
    run.fail("a", "moved")
    assert outcomes.succeed(run.machine, unit, 1, StepResult("late"), 0.0) == []
    run.start(idempotent=True)
    assert outcomes.succeed(run.machine, unit, 1, StepResult("late"), 0.0) == []
    assert run.succeed("a", "new") == ["step_completed", "completed"]
    assert outcomes.fail(run.machine, unit, 2, StepError("error", "late"), 0.0) == []


def test_a_failure_may_be_tolerated() -> None:
    steps = {"a": {**FUNCTION, "on_failure": "continue", "for_each": [1, 2]}}
    run = Run({**steps, "b": {**FUNCTION, "with": {"x": "${steps.a}"}}})
    run.start()
    run.fail("a[0]")
    run.succeed("a[1]", "ok")
    assert run.step("a").output == [None, "ok"]
    assert run.start() == ["b"]


def test_a_failure_stops_what_runs_and_undoes_what_was_done_the_last_first() -> None:
    run = Run(
        {
            "a": {**FUNCTION, "compensate": UNDO},
            "b": {**FUNCTION, "after": ["a"], "compensate": UNDO},
            "free": {**FUNCTION, "after": ["a"]},
            "slow": {**FUNCTION, "after": ["a"], "compensate": UNDO},
            "c": {**FUNCTION, "after": ["b"]},
            "never": {**FUNCTION, "after": ["c"]},
        }
    )
    run.start()
    run.succeed("a", 1)
    assert run.start() == ["b", "free", "slow"]
    run.succeed("b")
    run.start()
    assert run.fail("c") == ["step_failed"]
    assert (run.status, run.start()) == ("failing", [])
    assert run.succeed("free") == ["step_completed"]  # it ended before it heard
    run.stop()
    assert run.step("slow").status == "cancelled"
    # nobody knows how far `slow` came, so it is undone as well
    assert run.start() == ["undo slow"]
    run.succeed("undo slow")
    assert run.start() == ["undo b"]
    run.succeed("undo b")
    assert run.start() == ["undo a"]
    assert run.succeed("undo a") == ["compensation_completed", "failed"]
    assert (run.step("never").status, run.step("a").compensation) == ("cancelled", "completed")
    error = run.view().error
    assert error is not None
    assert (error.step, error.message) == ("c", "no")


def test_a_compensation_is_tried_again_and_its_failure_does_not_stop_the_others() -> None:
    undo = {**UNDO, "retry": {"attempts": 2, "backoff_seconds": 1}}
    run = Run({"a": {**FUNCTION, "compensate": UNDO}, "b": {**FUNCTION, "compensate": undo}})
    run.start()
    run.succeed("a")
    run.note(requests.cancel(run.machine, 0.0))
    run.stop()
    assert run.start() == ["undo b"]
    assert run.fail("undo b") == ["compensation_failed"]
    assert run.start() == []
    run.now = run.machine.wake_at() or 0.0
    assert run.start() == ["undo b"]
    run.fail("undo b")
    assert run.start() == ["undo a"]
    assert run.succeed("undo a") == ["compensation_completed", "cancelled"]
    assert run.step("b").compensation == "failed"


def test_a_compensation_may_be_uncertain() -> None:
    run = Run({"a": {**FUNCTION, "compensate": UNDO}, "b": {**FUNCTION, "after": ["a"]}})
    run.start()
    run.succeed("a")
    run.start()
    run.fail("b")
    run.start()
    assert run.fail("undo a", "lost") == ["compensation_uncertain"]
    assert run.status == "uncertain"
    assert run.note(requests.skip(run.machine, "a", None, None, 0.0)) == [
        "compensation_waived",
        "failed",
    ]


def test_the_deadline_ends_a_workflow() -> None:
    steps = {"a": {**FUNCTION, "compensate": UNDO}, "b": {**FUNCTION, "after": ["a"]}}
    run = Run(steps, deadline=50.0)
    run.start()
    run.succeed("a")
    assert run.machine.wake_at() == 50.0
    assert outcomes.settle(run.machine, 49.9) == []
    run.start()
    assert run.note(outcomes.settle(run.machine, 50.0)) == ["deadline_passed"]
    run.stop()
    run.start()
    run.succeed("undo a")
    error = run.view().error
    assert error is not None
    assert (run.status, error.kind) == ("failed", "deadline")


def test_a_pause_holds_new_steps_back() -> None:
    steps = {"a": FUNCTION, "b": {**FUNCTION, "after": ["a"]}, "c": FUNCTION}
    run = Run(steps)
    units = run.machine.take(0.0)
    run.note(outcomes.start(run.machine, units[0], False, 0.0))
    run.note(requests.pause(run.machine, 0.0))
    assert requests.pause(run.machine, 0.0) == []
    assert not run.machine.may_start(units[1])  # it was taken, and waits in a queue
    run.succeed("a")
    assert (run.status, run.start()) == ("paused", [])
    run.note(requests.resume(run.machine, 0.0))
    assert sorted(run.start()) == ["b", "c"]


def test_a_cancelled_workflow_without_effects_ends_at_once() -> None:
    run = Run({"a": FUNCTION})
    assert run.note(requests.cancel(run.machine, 0.0)) == ["cancel_requested", "cancelled"]
    assert requests.cancel(run.machine, 0.0) == []


def test_after_a_restart_what_ran_goes_on_or_is_uncertain() -> None:
    run = Run({"a": FUNCTION, "b": FUNCTION})
    units = run.machine.take(0.0)
    for unit, idempotent in zip(units, (True, False), strict=True):
        run.note(outcomes.start(run.machine, unit, idempotent, 0.0))
    assert run.note(outcomes.recover(run.machine, 9.0)) == ["step_failed", "step_uncertain"]
    run.now = 9.0
    assert run.start() == ["a"]
    assert run.step("b").status == "uncertain"


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ({1, 2}, "invalid", "no JSON value"),
        (float("nan"), "invalid", "no JSON value"),
        (object(), "invalid", "no JSON value"),
        (2**70, "invalid", "cannot be shown (Integer exceeds 64-bit range)"),
        (["\ud800"], "invalid", "cannot be shown (str is not valid UTF-8"),
        ("x" * 200, "oversized", "has 202 bytes as JSON, the most is 100"),
        ({REFERENCE_KEY: "file:///etc"}, "invalid", "marks results by reference"),
    ],
)
def test_a_result_that_cannot_be_kept_fails_the_step(value: Any, kind: str, message: str) -> None:
    run = Run({"a": {**FUNCTION, "retry": {"attempts": 3}}}, limits=Limits(result_bytes=100))
    run.start()
    assert run.succeed("a", value) == ["step_failed", "failed"]
    error = run.view().error
    assert error is not None
    assert error.kind == kind
    assert message in error.message


def test_a_step_whose_result_cannot_be_kept_is_undone_as_one_that_succeeded() -> None:
    charge = {**FUNCTION, "compensate": UNDO, "retry": {"attempts": 3}}
    run = Run({"charge": charge}, limits=Limits(result_bytes=100))
    run.start()
    assert run.succeed("charge", "x" * 200) == ["step_failed"]
    assert run.start() == ["undo charge"]
    assert run.machine.steps[0].unit(None).attempt == 1


def test_a_compensation_has_completed_whatever_it_gives() -> None:
    run = Run({"charge": {**FUNCTION, "compensate": UNDO}, "b": {**FUNCTION, "after": ["charge"]}})
    run.start()
    run.succeed("charge")
    requests.cancel(run.machine, 1.0)
    run.start()
    assert run.succeed("undo charge", float("nan")) == ["compensation_completed", "cancelled"]
    assert run.step("charge").compensation == "completed"


@pytest.mark.parametrize("idempotent", [False, True])
def test_what_has_acted_is_done_again_only_where_that_is_harmless(idempotent: bool) -> None:
    run = Run({"a": {**FUNCTION, "retry": {"attempts": 3}}})
    run.start(idempotent=idempotent)
    full = StepError("error", "the disk is full", acted=True)
    events = outcomes.fail(run.machine, run.unit("a"), 1, full, 0.0)
    assert ("retry_at" in events[0].data) is idempotent
    assert run.machine.finished == (None if idempotent else "failed")


def test_an_error_can_be_shown_whatever_its_words_are() -> None:
    run = Run({"a": FUNCTION})
    run.start()
    wrong = StepError("error", "no file caf\udce9.txt")
    run.note(outcomes.fail(run.machine, run.unit("a"), 1, wrong, 0.0))
    error = run.view().error
    assert error is not None
    assert error.message == r"no file caf\udce9.txt"


def test_a_long_error_is_cut_where_it_enters_the_record() -> None:
    run = Run({"a": FUNCTION})
    run.start()
    wrong = StepError("error", "x" * 1_048_576, retryable=False)
    run.note(outcomes.fail(run.machine, run.unit("a"), 1, wrong, 0.0))
    told = "x" * 4000 + "... (1,044,576 characters more)"
    failed, ended = run.events[-2:]
    assert (failed.data["error"]["message"], ended.data["error"]["message"]) == (told, told)


def test_an_error_of_the_longest_length_is_kept_whole() -> None:
    run = Run({"a": FUNCTION})
    run.start()
    longest = StepError("error", "x" * 4000, retryable=False)
    run.note(outcomes.fail(run.machine, run.unit("a"), 1, longest, 0.0))
    assert run.events[-1].data["error"]["message"] == "x" * 4000


def test_all_results_together_have_a_limit() -> None:
    steps = {"a": {**FUNCTION, "for_each": "${inputs.list}"}}
    run = Run(steps, inputs=[1, 2, 3], limits=Limits(total_bytes=100))
    run.start()
    run.succeed("a[0]", "x" * 48)
    run.succeed("a[1]", "x" * 47)
    assert run.succeed("a[2]", "x")[0] == "step_failed"
    error = run.view().error
    assert error is not None
    assert "pass 100 bytes" in error.message


def test_values_are_what_a_replay_would_see() -> None:
    run = Run({"a": FUNCTION})
    run.start()
    run.succeed("a", {"pair": (1, 2), 3: "number"})
    assert run.machine.output == {"pair": [1, 2], "3": "number"}


def test_a_result_by_reference_is_handed_on_as_such() -> None:
    run = Run({"a": FUNCTION})
    run.start()
    unit = run.unit("a")
    result = StepResult(reference="file:///r/1", size=10_000_000, node="n1", seconds=1.5)
    run.note(outcomes.succeed(run.machine, unit, 1, result, 0.0))
    assert run.machine.output == {REFERENCE_KEY: "file:///r/1", "size": 10_000_000}
    told = next(event.data for event in run.events if event.kind == "step_completed")
    assert (told["node"], told["seconds"]) == ("n1", 1.5)


def test_an_output_that_has_no_value_fails_without_undoing() -> None:
    steps = {"a": {**FUNCTION, "compensate": UNDO}}
    run = Run(steps, output="${steps.a.text}")
    run.start()
    assert run.succeed("a", {"other": 1}) == ["step_completed", "failed"]
    assert (run.status, run.machine.undo) == ("failed", None)


def test_what_cannot_be_asked_is_refused() -> None:
    run = Run({"a": FUNCTION, "b": {**FUNCTION, "for_each": [1, 2]}})
    run.start()
    machine = run.machine
    with pytest.raises(NotFoundError, match="wf-1 has no step 'x'; its steps: a, b"):
        requests.retry(machine, "x", None, 0.0)
    with pytest.raises(NotFoundError, match=r"step 'b' has 2 items: give `item`.*not 2"):
        requests.retry(machine, "b", 2, 0.0)
    with pytest.raises(ConflictError, match="step 'a' is running: only an uncertain step"):
        requests.skip(machine, "a", None, None, 0.0)
    run.fail("a", "lost")
    with pytest.raises(RequestError, match="the value is no JSON value"):
        requests.skip(machine, "a", None, {1}, 0.0)
    run.fail("b[0]")
    run.stop()
    assert run.status == "failed"
    for ask in (requests.cancel, requests.pause, requests.resume):
        with pytest.raises(ConflictError, match="wf-1 is failed and cannot be"):
            ask(machine, 0.0)
    with pytest.raises(ConflictError, match="is failed and cannot have a step retried"):
        requests.retry(machine, "a", None, 0.0)


def test_a_failing_workflow_is_neither_paused_nor_cancelled() -> None:
    run = Run({"a": {**FUNCTION, "compensate": UNDO}, "b": {**FUNCTION, "after": ["a"]}})
    run.start()
    run.succeed("a")
    run.start()
    run.fail("b")
    with pytest.raises(ConflictError, match="is failing: what undoes it is not held back"):
        requests.pause(run.machine, 0.0)
    with pytest.raises(ConflictError, match="has failed already and is being undone"):
        requests.cancel(run.machine, 0.0)


def test_a_waiting_step_may_be_retried_at_once_or_skipped() -> None:
    retry = {"attempts": 9, "backoff_seconds": 1000}
    run = Run({"a": {**FUNCTION, "retry": retry}})
    run.start()
    run.fail("a")
    run.note(requests.retry(run.machine, "a", None, 1.0))
    assert run.start() == ["a"]
    run.fail("a")
    run.note(requests.skip(run.machine, "a", None, "by hand", 2.0))
    assert (run.status, run.machine.output) == ("completed", "by hand")
    assert run.machine.wake_at() is None


def test_without_an_item_all_that_are_uncertain_are_run_again() -> None:
    run = items_that_were_lost()
    assert run.note(requests.retry(run.machine, "a", None, 1.0)) == ["step_released"] * 3
    assert run.start() == ["a[0]", "a[2]", "a[3]"]
    with pytest.raises(ConflictError, match="none of the 4 items of step 'a' is uncertain; one"):
        requests.retry(run.machine, "a", None, 1.0)


def test_without_an_item_all_that_are_uncertain_are_skipped() -> None:
    run = items_that_were_lost()
    skipped = run.note(requests.skip(run.machine, "a", None, "by hand", 1.0))
    assert skipped == ["step_waived"] * 3 + ["completed"]
    assert run.machine.output == ["by hand", "fine", "by hand", "by hand"]


def test_without_an_item_a_compensation_that_is_uncertain_is_run_again() -> None:
    run = items_that_were_lost()
    requests.cancel(run.machine, 1.0)
    assert run.start() == ["undo a[2]"], "one at a time, the last that may have had an effect first"
    run.fail("undo a[2]", "lost")
    assert run.note(requests.retry(run.machine, "a", None, 2.0)) == ["compensation_released"]
    assert run.start() == ["undo a[2]"]
