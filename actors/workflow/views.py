"""A workflow as users see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.workflow.machine import Machine
from actors.workflow.units import StepRun, Unit
from ironcliw.schemas.base import Priority
from ironcliw.schemas.workflows import Failure, StepStatus, StepView, WorkflowView

_SHOWN_ITEMS = 100
# of the items' statuses the first that occurs stands for the step
_ORDER: Sequence[StepStatus] = (
    "running",
    "ready",
    "waiting",
    "uncertain",
    "pending",
    "failed",
    "cancelled",
    "completed",
    "waived",
    "skipped",
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a workflow beside its events."""

    owner: str
    priority: Priority
    key: str | None = None


def view_of(machine: Machine, facts: Facts, *, with_outputs: bool = False) -> WorkflowView:
    """The workflow with its steps.

    Args:
        machine: As it stands.
        facts: Beside it.
        with_outputs: Give the output of each step, too.
    """
    return WorkflowView(
        id=machine.id,
        name=machine.definition.name,
        status=machine.status,
        priority=facts.priority,
        owner=facts.owner,
        key=facts.key,
        created_at=machine.created_at,
        updated_at=machine.updated_at,
        finished_at=None if machine.finished is None else machine.updated_at,
        deadline=machine.deadline,
        error=_failure(machine.error),
        output=machine.output,
        steps=[_step(machine, run, with_outputs) for run in machine.steps],
    )


def _step(machine: Machine, run: StepRun, with_outputs: bool) -> StepView:
    units = run.units or []
    view = StepView(
        name=run.step.name,
        kind=run.step.call.kind,
        status=_status(machine, run),
        attempts=max((unit.attempt for unit in units), default=0),
        started_at=min(filter(None, (unit.started_at for unit in units)), default=None),
        finished_at=run.finished_at,
        node=next((unit.node for unit in units if unit.node), None),
        error=_failure(run.error) or _first_error(units),
        compensation=_compensation(machine, units),
    )
    if run.items is not None:
        view.items, view.items_done = len(units), len(units) - run.open
        uncertain = [unit.item for unit in units if unit.status == "uncertain"]
        view.uncertain_items = [item for item in uncertain if item is not None][:_SHOWN_ITEMS]
    if with_outputs:
        view.output = run.output
    return view


def _status(machine: Machine, run: StepRun) -> StepStatus:
    present = {run.status} if run.units is None else {unit.status for unit in run.units}
    if "pending" in present and (machine.goal or machine.finished):
        present = present - {"pending"} | {"cancelled"}
    return next(status for status in _ORDER if status in present)


def _first_error(units: Sequence[Unit]) -> Failure | None:
    for unit in units:
        if unit.error is not None and unit.status not in ("completed", "waived"):
            return _failure({**unit.error, "item": unit.item})
    return None


def _compensation(machine: Machine, units: Sequence[Unit]) -> StepStatus | None:
    undo = machine.undo or {}
    found = {undo[key].status for unit in units if (key := (unit.step.name, unit.item)) in undo}
    return next((status for status in _ORDER if status in found), None)


def _failure(error: Mapping[str, Any] | None) -> Failure | None:
    return None if error is None else Failure.model_validate(error)
