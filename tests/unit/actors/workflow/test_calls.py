"""What an executor is handed."""

from __future__ import annotations

from typing import Any

import pytest

from actors.workflow import outcomes, requests
from actors.workflow.calls import task_of
from actors.workflow.definition import define
from actors.workflow.limits import Limits
from actors.workflow.machine import Machine
from actors.workflow.tasks import StepError, StepResult
from actors.workflow.units import Unit

FLOW: dict[str, Any] = {
    "name": "flow",
    "inputs": {"who": {"default": "me"}},
    "steps": {
        "a": {
            "function": "f",
            "for_each": ["x", "y"],
            "with": {"item": "${item}", "index": "${index}", "run": "${workflow.id}"},
            "memory_gb": 2,
            "place": "spot",
            "timeout_seconds": 9,
            "compensate": {"function": "undo", "with": {"was": "${output}", "item": "${item}"}},
        },
        "b": {"generate": {"prompt": "${inputs.who}: ${steps.a}"}},
    },
}


def machine_of(**limits: int) -> Machine:
    definition = define(FLOW)
    machine = Machine(
        "wf-1",
        definition,
        definition.bind({}),
        created_at=0.0,
        deadline=50.0,
        limits=Limits(**limits),
    )
    outcomes.submit(machine, 0.0)
    return machine


def end(machine: Machine, units: list[Unit], value: Any) -> None:
    for unit in units:
        outcomes.start(machine, unit, False, 0.0)
        outcomes.succeed(machine, unit, unit.attempt, StepResult(value), 0.0)


def test_an_item_is_handed_what_concerns_it() -> None:
    machine = machine_of()
    first, second = (task_of(machine, each, False, "high") for each in machine.take(0.0))
    assert second.inputs == {"item": "y", "index": 1, "run": "wf-1"}
    assert (first.key, second.key) == ("wf-1/a/0", "wf-1/a/1")
    assert (second.kind, second.target, second.item, second.attempt) == ("function", "f", 1, 1)
    assert (second.memory_gb, second.place, second.timeout_seconds) == (2, "spot", 9)
    assert (second.deadline, second.priority, second.is_compensation) == (50.0, "high", False)


def test_what_undoes_a_step_has_a_key_of_its_own_and_no_deadline() -> None:
    machine = machine_of()
    end(machine, machine.take(0.0), "made")
    requests.cancel(machine, 0.0)
    [unit] = machine.take(0.0)
    task = task_of(machine, unit, True, "normal")
    assert task.inputs == {"was": "made", "item": "y"}
    assert (task.key, task.target, task.is_compensation) == ("wf-1/a/1/undo", "undo", True)
    # the deadline may be why it is undone
    assert (task.deadline, task.idempotent, task.place) == (None, True, "any")


def test_inputs_have_a_limit() -> None:
    machine = machine_of(call_bytes=100)
    end(machine, machine.take(0.0), "x" * 60)
    [unit] = machine.take(0.0)
    with pytest.raises(StepError, match="step 'b' would be handed 124 bytes") as caught:
        task_of(machine, unit, False, "normal")
    assert caught.value.failure == "oversized"
    machine.limits = Limits()
    assert task_of(machine, unit, False, "normal").inputs["prompt"].startswith('me: ["xxx')
