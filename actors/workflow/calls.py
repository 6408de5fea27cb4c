"""From a unit that may be started to the task that an executor is handed."""

from __future__ import annotations

from actors.workflow.machine import Machine
from actors.workflow.references import Reference, Scope
from actors.workflow.sizes import Size, size_of
from actors.workflow.tasks import READS_RESULTS, StepError, StepTask
from actors.workflow.units import Unit
from ironcliw.schemas.base import Priority


def task_of(machine: Machine, unit: Unit, idempotent: bool, priority: Priority) -> StepTask:
    """The unit's next attempt, its inputs taken from the steps before.

    Raises:
        StepError: An input has no value, or all together are too large.
    """
    call, scope = unit.call, machine.scope(unit)
    _check_size(machine, unit, scope)
    return StepTask(
        workflow_id=machine.id,
        step=unit.step.name,
        item=unit.item,
        attempt=unit.attempt + 1,
        kind=call.kind,
        target=call.target,
        inputs=call.inputs.render(scope),
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


def former_task(machine: Machine, unit: Unit) -> StepTask:
    """The unit's present attempt, as far as it takes to have nothing more done for it."""
    return StepTask(
        workflow_id=machine.id,
        step=unit.step.name,
        item=unit.item,
        attempt=unit.attempt,
        kind=unit.call.kind,
        target=unit.call.target,
        inputs={},
        key=key_of(machine.id, unit),
        idempotent=True,  # to stop it once more does no harm
    )


def key_of(workflow_id: str, unit: Unit) -> str:
    """The same for every attempt of the unit."""
    item = "" if unit.item is None else f"/{unit.item}"
    return f"{workflow_id}/{unit.step.name}{item}" + ("/undo" if unit.undo else "")


def _check_size(machine: Machine, unit: Unit, scope: Scope) -> None:
    limits, inline, kept = machine.limits, 0, 0
    for _, reference in unit.call.inputs.references:
        size = _size(machine, reference, scope)
        if unit.call.kind in READS_RESULTS:
            inline, kept = inline + size.inline, kept + size.kept
        else:  # they are read before it is called
            inline += size.inline + size.kept
        if inline > limits.call_bytes:
            raise _too_much(unit, inline, limits.call_bytes, "name less, or each result once")
        if kept > limits.referenced_bytes:
            raise _too_much(unit, kept, limits.referenced_bytes, "hand on fewer results at a time")


def _size(machine: Machine, reference: Reference, scope: Scope) -> Size:
    """Constant time for whole outputs; others are measured once, as they do not change."""
    if reference.root not in ("inputs", "steps"):
        return size_of(scope.value(reference))
    if reference.root == "steps" and not reference.path:
        run = machine.steps[machine.definition.by_name[reference.name]]
        return Size(run.size, run.kept)
    found = machine.sizes.get(reference)
    if found is None:
        found = machine.sizes[reference] = size_of(scope.value(reference))
    return found


def _too_much(unit: Unit, size: int, most: int, what_to_do: str) -> StepError:
    return StepError(
        "oversized",
        f"step {unit.step.name!r} would be handed {size} bytes or more, the most is {most}: "
        f"{what_to_do}, or let the steps before give less",
        retryable=False,
    )
