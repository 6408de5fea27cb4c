"""From a unit that may be started to the task that an executor is handed."""

from __future__ import annotations

from actors.workflow.machine import Machine
from actors.workflow.tasks import StepError, StepTask
from actors.workflow.units import Unit
from ironcliw.schemas.base import Priority


def task_of(machine: Machine, unit: Unit, idempotent: bool, priority: Priority) -> StepTask:
    """The unit's next attempt, its inputs taken from the steps before.

    Raises:
        StepError: An input has no value, or all together are too large.
    """
    call = unit.call
    _check_size(machine, unit)
    return StepTask(
        workflow_id=machine.id,
        step=unit.step.name,
        item=unit.item,
        attempt=unit.attempt + 1,
        kind=call.kind,
        target=call.target,
        inputs=call.inputs.render(machine.scope(unit)),
        key=key_of(machine.id, unit),
        options=call.options,
        timeout_seconds=call.timeout_seconds,
        deadline=None if unit.undo else machine.deadline,
        priority=priority,
        memory_gb=call.memory_gb,
        expected_seconds=call.expected_seconds,
        place=call.place,
        idempotent=idempotent,
        is_compensation=unit.undo,
    )


def key_of(workflow_id: str, unit: Unit) -> str:
    """The same for every attempt of the unit."""
    item = "" if unit.item is None else f"/{unit.item}"
    return f"{workflow_id}/{unit.step.name}{item}" + ("/undo" if unit.undo else "")


def _check_size(machine: Machine, unit: Unit) -> None:
    used = {each.name for _, each in unit.call.inputs.references if each.root == "steps"}
    size = sum(machine.steps[machine.definition.by_name[name]].size for name in used)
    if size > machine.limits.call_bytes:
        raise StepError(
            "oversized",
            f"step {unit.step.name!r} would be handed {size} bytes of results, the most is "
            f"{machine.limits.call_bytes}: let the steps before give theirs by reference, or less",
            retryable=False,
        )
