"""What `ironcliw workflow` prints of events and steps; no I/O."""

from __future__ import annotations

import json
import time

from ironcliw.schemas.workflows import FINISHED, StepView, WorkflowEvent, WorkflowView

_UNCERTAIN = frozenset({"step_uncertain", "compensation_uncertain"})


def event_lines(event: WorkflowEvent, workflow_id: str) -> list[str]:
    """A transition in one line, and in a second one what its user is to do, if anything."""
    step = "" if event.step is None else f" {event.step}"
    item = "" if event.item is None else f"[{event.item}]"
    attempt = f" (attempt {event.attempt})" if (event.attempt or 0) > 1 else ""
    error = event.data.get("error") or {}
    why = f": {error['message']}".partition("\n")[0] if "message" in error else ""
    at = time.strftime("%H:%M:%S", time.localtime(event.at))
    lines = [f"{event.seq:5d} {at} {event.kind}{step}{item}{attempt}{why}"]
    if event.kind in _UNCERTAIN and event.step is not None:
        lines.append(_advice(workflow_id, event.step))
    return lines


def error_lines(view: WorkflowView) -> list[str]:
    """Each error once and whole, and below that of a step what its user is to do, if anything.

    A cell of a table has no room for them: their end is often the advice. What the workflow failed
    of begins with `error:`; it may be no step's, such as a deadline.
    """
    lines = []
    if view.error is not None and not any(_is_why(view, step) for step in view.steps):
        lines.append(f"error: {view.error.message}")
    for step in view.steps:
        if step.error is not None:
            why = "error: " if _is_why(view, step) else ""
            item = "" if step.error.item is None else f"[{step.error.item}]"
            lines.append(f"{why}{step.name}{item}: {step.error.message}")
        if view.status not in FINISHED and _is_uncertain(step):
            lines.append(_advice(view.id, step.name))
    return lines


def output_line(view: WorkflowView) -> str:
    """What a workflow gave, as JSON."""
    return f"output: {json.dumps(view.output)}"


def _is_why(view: WorkflowView, step: StepView) -> bool:
    """Whether the workflow failed of this step's error."""
    told, own = view.error, step.error
    return bool(told and own and (told.step, told.message) == (step.name, own.message))


def _is_uncertain(step: StepView) -> bool:
    # of a fan-out others may still run, which then stand for the step
    return "uncertain" in (step.status, step.compensation) or bool(step.uncertain_items)


def _advice(workflow_id: str, step: str) -> str:
    return (
        f"nobody knows how far {step} came; look, then: "
        f"ironcliw workflow retry|skip {workflow_id} {step}"
    )
