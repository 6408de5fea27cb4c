"""A workflow that a test drives by hand, one outcome after the other."""

from __future__ import annotations

from typing import Any

from actors.workflow import outcomes
from actors.workflow.definition import define
from actors.workflow.events import Event
from actors.workflow.limits import Limits
from actors.workflow.machine import Machine
from actors.workflow.tasks import FailureKind, StepError, StepResult
from actors.workflow.units import Unit
from actors.workflow.views import Facts, view_of
from ironcliw.schemas.workflows import StepView, WorkflowView

FUNCTION = {"function": "f"}
UNDO = {"function": "undo"}


class Run:
    """A workflow that is driven by hand; `now` is where the test says."""

    def __init__(
        self,
        steps: dict[str, Any],
        *,
        deadline: float | None = None,
        limits: Limits | None = None,
        output: Any = None,
        inputs: Any = None,
    ) -> None:
        source = {"name": "d", "steps": steps, "output": output, "inputs": {"list": None}}
        definition = define(source)
        self.machine = Machine(
            "wf-1",
            definition,
            definition.bind({} if inputs is None else {"list": inputs}),
            created_at=0.0,
            deadline=deadline,
            limits=limits,
        )
        self.now = 0.0
        self.events = outcomes.submit(self.machine, 0.0)

    def note(self, events: list[Event]) -> list[str]:
        self.events += events
        return [event.kind for event in events]

    def start(self, *, idempotent: bool = False) -> list[str]:
        """Starts all that can be, and gives their names."""
        units = self.machine.take(self.now)
        for unit in units:
            self.note(outcomes.start(self.machine, unit, idempotent, self.now))
        return [name(unit) for unit in units]

    def unit(self, text: str) -> Unit:
        return next(unit for unit in self.machine.active if name(unit) == text)

    def succeed(self, text: str, value: Any = None) -> list[str]:
        unit = self.unit(text)
        result = StepResult(value)
        return self.note(outcomes.succeed(self.machine, unit, unit.attempt, result, self.now))

    def fail(self, text: str, kind: FailureKind = "error", retryable: bool = True) -> list[str]:
        unit = self.unit(text)
        error = StepError(kind, "no", retryable)
        return self.note(outcomes.fail(self.machine, unit, unit.attempt, error, self.now))

    def stop(self) -> None:
        for unit in list(self.machine.active):
            if not unit.undo:
                self.note(outcomes.stop(self.machine, unit, unit.attempt, self.now))

    def view(self) -> WorkflowView:
        return view_of(self.machine, Facts("me", "normal"), with_outputs=True)

    def step(self, step: str) -> StepView:
        return next(each for each in self.view().steps if each.name == step)

    @property
    def status(self) -> str:
        return self.machine.status


def name(unit: Unit) -> str:
    item = "" if unit.item is None else f"[{unit.item}]"
    return ("undo " if unit.undo else "") + unit.step.name + item


def items_that_were_lost() -> Run:
    steps = {"a": {**FUNCTION, "for_each": "${inputs.list}", "compensate": UNDO}}
    run = Run(steps, inputs=[1, 2, 3, 4])
    run.start()
    run.succeed("a[1]", "fine")
    for lost in ("a[3]", "a[0]", "a[2]"):
        run.fail(lost, "lost")
    assert run.status == "uncertain"
    return run
