"""Workflows written in Python.

    flow = Workflow("answer", deadline_seconds=60)
    question = flow.input("question")
    intent = flow.decide("intent", {"input": question, "labels": ["billing", "travel"]})
    found = flow.function(
        "fetch", "knowledge.lookup", {"query": question}, when=f"{intent['confidence']} >= 0.5"
    )
    answer = flow.generate("answer", {"model": "...", "prompt": f"{question} {found}"})
    flow.output(answer["text"])

What a step gives is named by a `Ref`; `ref["key"]` and `ref[0]` name parts of it. As text a `Ref`
is its `${...}`, so f-strings make texts and conditions. The result is the same definition that YAML
gives, and is checked in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

from actors.workflow.definition import Definition, define
from ironcliw.errors import RequestError
from ironcliw.schemas.base import Priority
from ironcliw.schemas.workflows import Place, StepKind

_REQUIRED: Any = object()


class Ref:
    """Names a value that is known when the workflow runs."""

    __slots__ = ("_inside",)

    def __init__(self, inside: str) -> None:
        self._inside = inside

    def __str__(self) -> str:
        return f"${{{self._inside}}}"

    def __repr__(self) -> str:
        return f"Ref({self._inside!r})"

    def __getitem__(self, key: str | int) -> Ref:
        return Ref(f"{self._inside}[{json.dumps(key, ensure_ascii=False)}]")

    def __iter__(self) -> Iterator[Ref]:
        raise TypeError(f"{self} is not known yet: `for_each=...` runs a step for each item")

    def __bool__(self) -> bool:
        raise TypeError(f"{self} is not known yet: `when=...` decides by it")

    @property
    def step(self) -> str:
        """Name of the step whose output it is; raises RequestError for other references."""
        parts = self._inside.split(".")
        if parts[0] != "steps":
            raise RequestError(f"{self} is not the output of a step", param="after")
        return parts[1].partition("[")[0]


ITEM = Ref("item")
"""In the call of a step with `for_each`: the item."""
INDEX = Ref("index")
"""Its number, from 0."""
OUTPUT = Ref("output")
"""In `compensate`: what the step gave that is to be undone."""


class CallOptions(TypedDict, total=False):
    """What every call may say; see `ironcliw.schemas.workflows.CallForm`."""

    retry: Mapping[str, Any]
    timeout_seconds: float
    idempotent: bool
    place: Place
    memory_gb: float
    expected_seconds: float


class StepOptions(CallOptions, total=False):
    """What every step may say; see `ironcliw.schemas.workflows.StepForm`."""

    after: Sequence[Ref | str]
    when: str | Ref
    for_each: Ref | Sequence[Any]
    max_parallel: int
    on_failure: Literal["fail", "continue"]
    compensate: Mapping[str, Any]


def function(
    target: str, arguments: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
) -> dict[str, Any]:
    """A call of a registered function, for `compensate`."""
    return {"function": target, "with": dict(arguments or {}), **options}


class Workflow:
    """A definition under construction.

    Args:
        name: Of the workflow.
        description: For people.
        deadline_seconds: From submission to the end.
        priority: Unless the submission gives another.
    """

    def __init__(
        self,
        name: str,
        *,
        description: str | None = None,
        deadline_seconds: float | None = None,
        priority: Priority = "normal",
    ) -> None:
        self._inputs: dict[str, Any] = {}
        self._steps: dict[str, Any] = {}
        self._output: Any = None
        self._head: dict[str, Any] = {"name": name, "priority": priority}
        if description is not None:
            self._head["description"] = description
        if deadline_seconds is not None:
            self._head["deadline_seconds"] = deadline_seconds

    def input(self, name: str, default: Any = _REQUIRED, description: str | None = None) -> Ref:
        """Declares an input; without a default it must be given.

        Raises:
            RequestError: There is one of that name.
        """
        if name in self._inputs:
            raise RequestError(f"there is an input {name!r} already", param=f"inputs.{name}")
        form = {"required": True} if default is _REQUIRED else {"default": default}
        self._inputs[name] = form | ({} if description is None else {"description": description})
        return Ref(f"inputs.{name}")

    def function(
        self,
        name: str,
        target: str,
        arguments: Mapping[str, Any] | None = None,
        **options: Unpack[StepOptions],
    ) -> Ref:
        """A step that calls a registered function.

        Raises:
            RequestError: There is a step of that name; so do the other kinds.
        """
        return self._add(name, "function", target, arguments, options)

    def agent(
        self,
        name: str,
        capability: str | Mapping[str, Any],
        arguments: Mapping[str, Any] | None = None,
        **options: Unpack[StepOptions],
    ) -> Ref:
        """A step that asks an agent: any with the capability, or as `AgentForm` says."""
        return self._add(name, "agent", capability, arguments, options)

    def http(self, name: str, call: Mapping[str, Any], **options: Unpack[StepOptions]) -> Ref:
        """A step that sends a request: `method`, `url`, `headers`, `json`."""
        return self._add(name, "http", call, None, options)

    def embed(self, name: str, call: Mapping[str, Any], **options: Unpack[StepOptions]) -> Ref:
        """A step that embeds texts, as `POST /v1/embeddings`."""
        return self._add(name, "embed", call, None, options)

    def decide(self, name: str, call: Mapping[str, Any], **options: Unpack[StepOptions]) -> Ref:
        """A step that decides: `input` and `labels`, or as `POST /v1/decisions`."""
        return self._add(name, "decide", call, None, options)

    def generate(self, name: str, call: Mapping[str, Any], **options: Unpack[StepOptions]) -> Ref:
        """A step that generates text, as `POST /v1/chat/completions`."""
        return self._add(name, "generate", call, None, options)

    def train(self, name: str, call: Mapping[str, Any], **options: Unpack[StepOptions]) -> Ref:
        """A step that trains: a recipe and its configuration."""
        return self._add(name, "train", call, None, options)

    def output(self, value: Any) -> None:
        """What the workflow gives; without it, what its last step or steps give."""
        self._output = value

    def source(self) -> dict[str, Any]:
        """The definition as YAML and JSON have it."""
        found = {**self._head, "inputs": self._inputs, "steps": self._steps}
        if self._output is not None:
            found["output"] = self._output
        plain: dict[str, Any] = _plain(found)
        return plain

    def build(self) -> Definition:
        """The definition, checked.

        Raises:
            RequestError: A rule is broken; the message names the step and the field.
        """
        return define(self.source())

    def _add(
        self,
        name: str,
        kind: StepKind,
        call: Any,
        arguments: Mapping[str, Any] | None,
        options: StepOptions,
    ) -> Ref:
        if name in self._steps:
            raise RequestError(
                f"there is a step {name!r} already: give each step a name of its own",
                param=f"steps.{name}",
            )
        form: dict[str, Any] = {kind: call, **options}
        if arguments is not None:
            form["with"] = arguments
        if after := options.get("after"):
            form["after"] = [each.step if isinstance(each, Ref) else each for each in after]
        self._steps[name] = form
        return Ref(f"steps.{name}")


def _plain(value: Any) -> Any:
    match value:
        case Ref():
            return str(value)
        case Mapping():
            return {key: _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return value
