"""What an executor is handed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
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
    with pytest.raises(StepError, match="step 'b' would be handed 128 bytes") as caught:
        task_of(machine, unit, False, "normal")
    assert caught.value.failure == "oversized"
    machine.limits = Limits()
    assert task_of(machine, unit, False, "normal").inputs["prompt"].startswith('me: ["xxx')


def one_step(**call: Any) -> Machine:
    return submitted({"name": "one", "inputs": {"text": {}}, "steps": {"a": call}})


def submitted(flow: dict[str, Any]) -> Machine:
    definition = define(flow)
    inputs = definition.bind({"text": "x" * 1_000_000})
    machine = Machine("wf-1", definition, inputs, created_at=0.0)
    outcomes.submit(machine, 0.0)
    return machine


@contextmanager
def little_memory() -> Iterator[None]:
    """What would be put together has 200 MB."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("prompt", ["${inputs.text}" * 200, ["${inputs.text}"] * 200])
def test_a_value_counts_as_often_as_it_is_named(prompt: Any) -> None:
    machine = one_step(generate={"prompt": prompt})
    [unit] = machine.take(0.0)
    with little_memory(), pytest.raises(StepError, match="'a' would be handed 9000018 bytes or"):
        task_of(machine, unit, False, "normal")


@pytest.mark.parametrize("key", ["output", "for_each"])
def test_an_output_and_a_list_are_measured_before_they_are_put_together(key: str) -> None:
    named = ["${inputs.text}" * 200]
    more = {"for_each": named} if key == "for_each" else {"when": False}
    flow = {"name": "one", "inputs": {"text": {}}, "steps": {"a": {"function": "f", **more}}}
    with little_memory():
        machine = submitted(flow if key == "for_each" else {**flow, "output": named})
    assert (machine.finished, (machine.error or {})["kind"]) == ("failed", "oversized")
    assert "bytes as JSON or more, the most is" in (machine.error or {})["message"]


LARGE = {
    "name": "large",
    "steps": {
        "large": {"function": "f", "for_each": [1, 2]},
        "reads": {"function": "f", "with": {"all": "${steps.large}"}},
        "asks": {"embed": {"input": "${steps.large[1]}"}},
    },
}


def test_results_by_reference_count_where_they_are_read() -> None:
    definition = define(LARGE)
    machine = Machine("wf-1", definition, {}, created_at=0.0)
    outcomes.submit(machine, 0.0)
    for unit in machine.take(0.0):
        outcomes.start(machine, unit, False, 0.0)
        kept = StepResult(reference=f"result:wf-1/{unit.item}", size=60_000_000)
        outcomes.succeed(machine, unit, 1, kept, 0.0)
    units = {unit.step.name: unit for unit in machine.take(0.0)}
    task = task_of(machine, units["reads"], False, "normal")
    assert task.inputs["all"][1] == {"$reference": "result:wf-1/1", "size": 60_000_000}
    with pytest.raises(StepError, match=r"'asks' would be handed 600000.. bytes"):
        task_of(machine, units["asks"], False, "normal")
    machine.limits = Limits(referenced_bytes=100_000_000)
    with pytest.raises(StepError, match="'reads' would be handed 120000000 bytes or more"):
        task_of(machine, units["reads"], False, "normal")
