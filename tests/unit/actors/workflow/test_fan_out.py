"""What follows from a step that runs for each item of a list."""

from __future__ import annotations

from typing import Any

import pytest

from actors.workflow.events import Event
from actors.workflow.limits import Limits
from actors.workflow.machine import Machine
from tests.unit.actors.workflow.runs import FUNCTION, Run, name


def test_a_fan_out_gives_a_list_in_the_order_of_its_items() -> None:
    steps = {"a": {**FUNCTION, "for_each": "${inputs.list}", "max_parallel": 2}}
    run = Run(steps, inputs=["x", "y", "z"])
    assert run.start() == ["a[0]", "a[1]"]
    assert run.start() == []
    run.succeed("a[1]", "Y")
    assert run.start() == ["a[2]"]
    run.succeed("a[2]", "Z")
    assert (run.step("a").items, run.step("a").items_done) == (3, 2)
    run.succeed("a[0]", "X")
    assert run.machine.output == ["X", "Y", "Z"]


def test_a_fan_out_holds_what_it_might_when_it_was_submitted() -> None:
    steps = {"a": {**FUNCTION, "for_each": "${inputs.list}"}}
    few = Limits(items=2)
    submitted = Run(steps, inputs=[1, 2, 3]).events
    for first in (*submitted, Event("submitted", 0.0)):  # the latter of an earlier release
        run = Run(steps, inputs=[1, 2, 3], limits=few)
        machine = Machine(
            "wf-1", run.machine.definition, run.machine.inputs, created_at=0.0, limits=few
        )
        machine.apply(first)
        assert [name(unit) for unit in machine.startable] == ["a[0]", "a[1]", "a[2]"]
        assert run.status == "failed"


@pytest.mark.parametrize("items", [[], None])
def test_a_fan_out_over_nothing_gives_an_empty_list(items: Any) -> None:
    run = Run({"a": {**FUNCTION, "for_each": "${inputs.list}"}}, inputs=items)
    assert run.status == "completed"
    assert run.machine.output == []


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("text", "`for_each` of step 'a' is a str, not a list"),
        (list(range(4)), "has 4 items, the most is 3: hand on batches"),
    ],
)
def test_a_fan_out_over_what_is_no_list_fails(items: Any, message: str) -> None:
    steps = {"a": {**FUNCTION, "for_each": "${inputs.list}"}}
    run = Run(steps, inputs=items, limits=Limits(items=3))
    assert run.status == "failed"
    error = run.view().error
    assert error is not None
    assert (error.kind, error.step) == ("invalid", "a")
    assert message in error.message
