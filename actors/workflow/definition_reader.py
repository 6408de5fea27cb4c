"""From a form that is right field by field to a definition that is right as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pydantic import ValidationError

from actors.workflow.call_reader import at, read_call
from actors.workflow.conditions import Condition
from actors.workflow.form_problems import as_request_error
from actors.workflow.graph import Call, Definition, Input, Step
from actors.workflow.references import Reference, Template
from ironcliw.errors import RequestError
from ironcliw.schemas.workflows import InputForm, StepForm, WorkflowForm

_WORKFLOW_ATTRIBUTES = ("id", "name")


def read(source: Mapping[str, Any], digest: str) -> Definition:
    """Checks a definition and puts its steps in order.

    Args:
        source: JSON.
        digest: Of it.

    Raises:
        RequestError: A rule is broken.
    """
    try:
        form = WorkflowForm.model_validate(source)
    except ValidationError as error:
        raise as_request_error(error) from None
    drafts = {name: _Draft(name, step, form) for name, step in form.steps.items()}
    order = _in_order(drafts)
    steps = _steps(drafts, order)
    return Definition(
        name=form.name,
        inputs={name: _input(name, each or InputForm()) for name, each in form.inputs.items()},
        steps=steps,
        by_name={step.name: step.index for step in steps},
        output=_output(form, steps),
        priority=form.priority,
        deadline_seconds=form.deadline_seconds,
        digest=digest,
        source=source,
    )


def _input(name: str, form: InputForm) -> Input:
    if form.required and form.default is not None:
        raise RequestError(
            f"input {name!r} is required and has a default: take one of them away",
            param=f"inputs.{name}",
        )
    return Input(form.required, form.default)


class _Draft:
    """A step on its own: its templates are parsed, its neighbours not known."""

    def __init__(self, name: str, form: StepForm, workflow: WorkflowForm) -> None:
        self.name = name
        self.form = form
        self.call = read_call(f"steps.{name}", form)
        self.when = _condition(name, form.when)
        self.for_each = _fan_out(name, form)
        self.compensate: Call | None = None
        self.undo_needs: set[str] = set()
        if form.compensate is not None:
            self.compensate = read_call(f"steps.{name}.compensate", form.compensate)
        self.needs = self._needs(workflow)

    def _needs(self, workflow: WorkflowForm) -> set[str]:
        path = f"steps.{self.name}"
        item = {"item", "index"} if self.for_each is not None else set()
        block = "with" if self.form.with_ is not None else self.call.kind
        needs = set(_after(self.name, self.form.after, workflow))
        used = [(f"{path}.{block}", each, item) for each in self.call.inputs.references]
        if self.when is not None:
            used += [(f"{path}.when", ("", each), set()) for each in self.when.references]
        if self.for_each is not None:
            used += [(f"{path}.for_each", each, set()) for each in self.for_each.references]
        for where, (inside, reference), roots in used:
            _check(f"{where}.{inside}".rstrip("."), reference, workflow, roots)
            needs |= {reference.name} if reference.root == "steps" else set()
        if self.compensate is not None:
            for inside, reference in self.compensate.inputs.references:
                where = f"{path}.compensate.with.{inside}".rstrip(".")
                _check(where, reference, workflow, item | {"output"})
                self.undo_needs |= {reference.name} if reference.root == "steps" else set()
        if self.name in needs:
            raise at(path, "it needs its own output: a step can only use steps that end before it")
        return needs


def _after(step: str, names: Iterable[str], workflow: WorkflowForm) -> Iterable[str]:
    for name in names:
        if name not in workflow.steps:
            raise at(f"steps.{step}.after", _unknown("step", name, workflow.steps))
        yield name


def _condition(step: str, when: str | bool | None) -> Condition | None:
    if when is None:
        return None
    try:
        return Condition(when if isinstance(when, str) else str(when).lower())
    except ValueError as error:
        raise at(f"steps.{step}.when", str(error)) from None


def _fan_out(step: str, form: StepForm) -> Template | None:
    if form.for_each is None:
        if form.max_parallel is not None:
            raise at(f"steps.{step}.max_parallel", "it says nothing without `for_each`")
        return None
    where = f"steps.{step}.for_each"
    try:
        template = Template(form.for_each)
    except ValueError as error:
        raise at(where, str(error)) from None
    text = form.for_each
    is_one = [each.text for _, each in template.references] == [text]
    if isinstance(text, str) and not is_one:
        raise at(where, f"{text!r} is no list: write one reference, such as ${{inputs.documents}}")
    return template


def _check(where: str, reference: Reference, workflow: WorkflowForm, roots: set[str]) -> None:
    match reference.root:
        case "inputs" if reference.name not in workflow.inputs:
            raise at(where, _unknown("input", reference.name, workflow.inputs))
        case "steps" if reference.name not in workflow.steps:
            raise at(where, _unknown("step", reference.name, workflow.steps))
        case "workflow" if reference.name not in _WORKFLOW_ATTRIBUTES or reference.path:
            raise at(where, f"{reference.text}: a workflow has `id` and `name`")
        case "item" | "index" if reference.root not in roots:
            raise at(
                where, f"{reference.text} stands only in the call of a step that has `for_each`"
            )
        case "output" if reference.root not in roots:
            raise at(where, f"{reference.text} stands only under `compensate`")


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    return f"there is no {what} {name!r}; there are: {', '.join(known) or 'none'}"


def _in_order(drafts: Mapping[str, _Draft]) -> list[str]:
    sorter = TopologicalSorter({name: sorted(draft.needs) for name, draft in drafts.items()})
    try:
        return list(sorter.static_order())
    except CycleError as error:
        # graphlib tells the cycle against the direction of the arrows
        cycle = list(reversed(error.args[1]))
        raise at(
            f"steps.{cycle[0]}",
            "it waits for itself: " + " -> ".join(cycle) + "; take one of these references or "
            "`after` entries away",
        ) from None


def _steps(drafts: Mapping[str, _Draft], order: list[str]) -> tuple[Step, ...]:
    index = {name: position for position, name in enumerate(order)}
    before: dict[str, set[str]] = {}
    dependents: dict[str, list[int]] = {name: [] for name in order}
    for name in order:
        needs = drafts[name].needs
        before[name] = needs.union(*(before[need] for need in needs))
        for need in needs:
            dependents[need].append(index[name])
        if late := sorted(drafts[name].undo_needs - before[name]):
            raise at(
                f"steps.{name}.compensate",
                f"it uses step {late[0]!r}, which need not have ended before {name!r}: use "
                "${output}, or steps that it waits for",
            )
    return tuple(
        _step(drafts[name], index[name], [index[need] for need in drafts[name].needs], dependents)
        for name in order
    )


def _step(draft: _Draft, index: int, needs: list[int], dependents: dict[str, list[int]]) -> Step:
    return Step(
        name=draft.name,
        index=index,
        call=draft.call,
        needs=tuple(sorted(needs)),
        dependents=tuple(dependents[draft.name]),
        when=draft.when,
        for_each=draft.for_each,
        max_parallel=draft.form.max_parallel,
        on_failure=draft.form.on_failure,
        compensate=draft.compensate,
    )


def _output(form: WorkflowForm, steps: tuple[Step, ...]) -> Template:
    written: Any = form.output
    if written is None:
        last = [step.name for step in steps if not step.dependents]
        every = {name: f"${{steps.{name}}}" for name in last}
        written = every[last[0]] if len(last) == 1 else every
    try:
        template = Template(written)
    except ValueError as error:
        raise RequestError(f"field `output`: {error}", param="output") from None
    for inside, reference in template.references:
        _check(f"output.{inside}".rstrip("."), reference, form, set())
    return template
