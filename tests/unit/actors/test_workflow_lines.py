"""What `ironcliw workflow show` and `--follow` print."""

from __future__ import annotations

from typing import Any

import pytest

from actors.workflow_lines import error_lines, event_lines
from ironcliw.schemas.workflows import Failure, StepView, WorkflowEvent, WorkflowView

LONG = "the answer is not JSON: " + "x" * 100 + "; return what json.dumps takes\nat work.py:3"


def step(**more: Any) -> StepView:
    return StepView.model_validate(
        {"name": "pay", "kind": "function", "status": "running", "attempts": 1, **more}
    )


def workflow(status: Any, *steps: StepView) -> WorkflowView:
    times = {"created_at": 0.0, "updated_at": 0.0}
    return WorkflowView.model_validate(
        {"id": "wf-1", "name": "w", "status": status, "priority": "normal", "owner": "me", **times}
    ).model_copy(update={"steps": list(steps)})


def test_errors_are_shown_whole_and_name_their_item() -> None:
    failed = step(status="failed", error=Failure(kind="error", message=LONG, item=3))
    assert error_lines(workflow("failed", step(name="fine"), failed)) == [f"pay[3]: {LONG}"]


@pytest.mark.parametrize(
    ("why", "lines"),
    [
        ({"message": LONG, "step": "pay"}, [f"error: pay: {LONG}", "side: it may"]),
        ({"message": "late"}, ["error: late", f"pay: {LONG}", "side: it may"]),
    ],
)
def test_what_a_workflow_failed_of_is_told_once(why: dict[str, Any], lines: list[str]) -> None:
    pay = step(status="failed", error=Failure(kind="error", message=LONG))
    side = step(name="side", status="failed", error=Failure(kind="error", message="it may"))
    failed = workflow("failed", pay, side)
    failed.error = Failure.model_validate({"kind": "error", **why})
    assert error_lines(failed) == lines


@pytest.mark.parametrize(
    "uncertain",
    [
        {"status": "uncertain"},
        {"status": "completed", "compensation": "uncertain"},
        {"items": 9, "items_done": 1, "uncertain_items": [4]},
    ],
)
def test_an_uncertain_step_says_what_to_do(uncertain: dict[str, Any]) -> None:
    [advice] = error_lines(workflow("running", step(**uncertain), step(name="fine")))
    assert advice.endswith("ironcliw workflow retry|skip wf-1 pay")
    assert error_lines(workflow("failed", step(**uncertain))) == []


@pytest.mark.parametrize("kind", ["step_uncertain", "compensation_uncertain"])
def test_the_event_says_so_too(kind: str) -> None:
    data = {"error": {"kind": "lost", "message": "its process died\nat work.py:3"}}
    event = WorkflowEvent(seq=3, at=0.0, kind=kind, step="pay", item=2, attempt=1, data=data)
    line, advice = event_lines(event, "wf-1")
    assert line.endswith(f"{kind} pay[2]: its process died")
    assert advice.endswith("ironcliw workflow retry|skip wf-1 pay")
    [alone] = event_lines(event.model_copy(update={"kind": "step_failed", "attempt": 2}), "wf-1")
    assert alone.endswith("step_failed pay[2] (attempt 2): its process died")
