"""What becomes of a step when all it waited for has ended: its units, or its end."""

from __future__ import annotations

from typing import Any, Literal

from actors.workflow.references import Scope
from actors.workflow.shown import as_message
from actors.workflow.sizes import check_rendered
from actors.workflow.tasks import REFERENCE_KEY, StepError
from actors.workflow.units import StepRun

MOST_BYTES = 32 * 1024 * 1024
"""Of a list that is put together from several values. No setting: a replay must judge alike."""
Ends = tuple[Literal["skipped", "failed", "completed"], dict[str, Any]]


def open_step(run: StepRun, scope: Scope, most_items: int) -> Ends | None:
    """Makes the step's units, at most so many.

    Returns:
        None; or, where the step ends without running, how and the data of the event that says so.
    """
    try:
        if run.step.when is not None and not run.step.when.holds(scope):
            return "skipped", {}
        items = _items(run, scope, most_items)
    except StepError as error:
        return "failed", {"error": {"kind": error.failure, "message": as_message(error.message)}}
    if items == []:
        return "completed", {"value": []}
    run.open_units(items)
    return None


def _items(run: StepRun, scope: Scope, most_items: int) -> list[Any] | None:
    if run.step.for_each is None:
        return None
    if len(run.step.for_each.references) > 1:  # one alone gives what there is already
        what = f"`for_each` of step {run.step.name!r}"
        check_rendered(run.step.for_each, scope, MOST_BYTES, what)
    found = run.step.for_each.render(scope)
    if found is None:  # of a step that was skipped
        return []
    if isinstance(found, list) and len(found) <= most_items:
        return found
    if isinstance(found, list):
        why = f"has {len(found)} items, the most is {most_items}: hand on batches of them"
    elif isinstance(found, dict) and REFERENCE_KEY in found:
        why = "is kept by reference, being too large for the store: let the step before return less"
    else:
        why = f"is a {type(found).__name__}, not a list"
    raise StepError("invalid", f"`for_each` of step {run.step.name!r} {why}", retryable=False)
