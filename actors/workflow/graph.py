"""A checked definition: what each step does, and what it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from actors.workflow.conditions import Condition
from actors.workflow.references import Template
from ironcliw.errors import RequestError
from ironcliw.schemas.base import Priority
from ironcliw.schemas.workflows import Place, StepKind


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed step is tried again; times in seconds."""

    attempts: int = 1
    backoff_seconds: float = 1.0
    factor: float = 2.0
    max_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """What a step does, or what undoes it; the fields are those of `CallForm`."""

    kind: StepKind
    target: str
    inputs: Template
    options: Mapping[str, Any]
    retry: RetryPolicy
    timeout_seconds: float | None
    idempotent: bool | None
    place: Place
    memory_gb: float | None
    expected_seconds: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes:
        name: Unique in the workflow.
        index: Its place in `Definition.steps`.
        call: What it does.
        needs: Indices of the steps that must have ended before; all are smaller than `index`.
        dependents: Indices of the steps that need this one.
        when: Where it is false the step is skipped.
        for_each: Gives the list of a fan-out.
        max_parallel: Items of it that run at once.
        on_failure: What a final failure does to the workflow.
        compensate: What undoes it.
    """

    name: str
    index: int
    call: Call
    needs: tuple[int, ...]
    dependents: tuple[int, ...]
    when: Condition | None
    for_each: Template | None
    max_parallel: int | None
    on_failure: Literal["fail", "continue"]
    compensate: Call | None


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a workflow."""

    required: bool
    default: Any


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """A definition that has passed every check.

    Attributes:
        name: Of the workflow.
        inputs: By name.
        steps: Each one after those it needs.
        by_name: Index of each step.
        output: Rendered when the last step has ended.
        priority: Unless the submission gives another.
        deadline_seconds: From submission to the end.
        digest: SHA-256 of the source; equal definitions are one object.
        source: As it was given: JSON.
    """

    name: str
    inputs: Mapping[str, Input]
    steps: tuple[Step, ...]
    by_name: Mapping[str, int]
    output: Template
    priority: Priority
    deadline_seconds: float | None
    digest: str
    source: Mapping[str, Any] = field(repr=False)

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs, with defaults for those that were not given.

        Raises:
            RequestError: An input is missing, or nobody declared it.
        """
        known = ", ".join(self.inputs) or "none"
        for name in given:
            if name not in self.inputs:
                raise RequestError(
                    f"workflow {self.name!r} has no input {name!r}; its inputs: {known}",
                    param=f"inputs.{name}",
                )
        for name, declared in self.inputs.items():
            if declared.required and name not in given:
                raise RequestError(
                    f"workflow {self.name!r} needs the input {name!r}, which was not given: "
                    f"`inputs` has to have it, on the command line --input {name}=VALUE",
                    param=f"inputs.{name}",
                    code="missing_input",
                )
        return {name: given.get(name, declared.default) for name, declared in self.inputs.items()}
