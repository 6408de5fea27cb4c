"""What users ask of a running workflow: events, applied as they are made, or a refusal."""

from __future__ import annotations

from typing import Any

from actors.workflow.events import Event, EventKind
from actors.workflow.machine import Machine
from actors.workflow.outcomes import applied
from actors.workflow.tasks import StepError
from actors.workflow.units import Unit
from actors.workflow.values import as_json
from ironcliw.errors import ConflictError, NotFoundError, RequestError


def cancel(machine: Machine, now: float) -> list[Event]:
    """Stops what runs, undoes what was done. One that is being cancelled, or was, stays so.

    Raises:
        ConflictError: It has ended otherwise, or is failing.
    """
    if machine.finished == "cancelled" or machine.goal == "cancelled":
        return []
    _refuse_when_ended(machine, "be cancelled")
    if machine.goal == "failed":
        raise ConflictError(
            f"workflow {machine.id} has failed already and is being undone", code="workflow_failing"
        )
    return applied(machine, [Event("cancel_requested", now)], now)


def pause(machine: Machine, now: float) -> list[Event]:
    """Starts nothing new; what runs goes on. The deadline still counts.

    Raises:
        ConflictError: It has ended, or is being undone.
    """
    _refuse_when_ended(machine, "be paused")
    if machine.goal is not None:
        raise ConflictError(
            f"workflow {machine.id} is {machine.status}: what undoes it is not held back",
            code="workflow_failing",
        )
    return [] if machine.paused else applied(machine, [Event("paused", now)], now)


def resume(machine: Machine, now: float) -> list[Event]:
    """Goes on after a pause.

    Raises:
        ConflictError: It has ended.
    """
    _refuse_when_ended(machine, "be resumed")
    return applied(machine, [Event("resumed", now)], now) if machine.paused else []


def retry(machine: Machine, step: str, item: int | None, now: float) -> list[Event]:
    """Runs an uncertain step again, or one that waits for its next attempt at once.

    Args:
        machine: Of the workflow.
        step: Name of the step.
        item: Of a fan-out; None: all its items that are uncertain.
        now: Unix seconds.

    Raises:
        NotFoundError: There is no such step or item.
        ConflictError: It is not uncertain and does not wait.
    """
    units = _units(machine, step, item, "retried")
    if machine.goal is not None and not units[0].undo:
        raise ConflictError(
            f"workflow {machine.id} is to be undone, and step {step!r} may still be at it: skip it "
            "when it has ended",
            code="workflow_failing",
        )
    kind: EventKind = "compensation_released" if units[0].undo else "step_released"
    events = [Event(kind, now, step, unit.item, unit.attempt) for unit in units]
    return applied(machine, events, now)


def skip(machine: Machine, step: str, item: int | None, value: Any, now: float) -> list[Event]:
    """Takes an uncertain step, or one that waits for its next attempt, as done.

    Args:
        machine: Of the workflow.
        step: Name of the step.
        item: Of a fan-out; None: all its items that are uncertain.
        value: What it is taken to have given: JSON.
        now: Unix seconds.

    Raises:
        NotFoundError: There is no such step or item.
        ConflictError: It is not uncertain and does not wait.
        RequestError: The value is no JSON, or too large.
    """
    units = _units(machine, step, item, "skipped")
    try:
        value, size = as_json(value, machine.limits.result_bytes, "the value")
    except StepError as error:
        raise RequestError(error.message, param="value") from error
    kind: EventKind = "compensation_waived" if units[0].undo else "step_waived"
    data = {"value": value, "size": size}
    events = [Event(kind, now, step, unit.item, unit.attempt, data) for unit in units]
    return applied(machine, events, now)


def _refuse_when_ended(machine: Machine, what: str) -> None:
    if machine.finished is not None:
        raise ConflictError(
            f"workflow {machine.id} is {machine.finished} and cannot {what}",
            code="workflow_finished",
        )


def _units(machine: Machine, step: str, item: int | None, what: str) -> list[Unit]:
    """One or more."""
    _refuse_when_ended(machine, f"have a step {what}")
    index = machine.definition.by_name.get(step)
    if index is None:
        known = ", ".join(machine.definition.by_name)
        raise NotFoundError(
            f"workflow {machine.id} has no step {step!r}; its steps: {known}", param="step"
        )
    undo, run = machine.undo is not None, machine.steps[index]
    unit = machine.unit(step, item, undo=undo)
    if unit is not None and unit.status in ("uncertain", "waiting"):
        return [unit]
    if run.items is not None and item is None:
        if found := [each for each in machine.uncertain if each.step.name == step]:
            return sorted(found, key=lambda each: each.item or 0)
        raise ConflictError(
            f"none of the {len(run.items)} items of step {step!r} is uncertain; one that waits for "
            f"its next attempt can be {what}: give `item`",
            code="step_not_uncertain",
        )
    if unit is None and not undo and run.items is not None:
        raise NotFoundError(
            f"step {step!r} has {len(run.items)} items: give `item`, from 0 to "
            f"{len(run.items) - 1}, not {item}",
            param="item",
        )
    status = "not uncertain" if unit is None else unit.status
    raise ConflictError(
        f"step {step!r} is {status}: only an uncertain step, or one that waits for its next "
        f"attempt, can be {what}",
        code="step_not_uncertain",
    )
