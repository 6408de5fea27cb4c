"""References such as `${steps.fetch.documents[0].title}`: parsed once, looked up at each start.

    reference  = "${" root path "}"
    root       = "inputs." name | "steps." name | "item" | "index" | "output"
               | "workflow.id" | "workflow.name"
    path       = { "." key | "[" number "]" | '["' any text '"]' }

A string that is one reference and nothing else gives the value with its type; within a longer
string a value stands as text (strings as they are, the rest as JSON). `$${` is a plain `${`. A path
into null is null, so that what follows a skipped step can be written as if it had run; any other
path that leads nowhere is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.workflow.tasks import REFERENCE_KEY, StepError

NO_ITEM: Any = object()
_NAMED = ("inputs", "steps", "workflow")
_BARE = ("item", "index", "output")
_FOUND = re.compile(r"\$\$\{|\$\{([^{}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_SEGMENT = re.compile(r'\.([^.\[\]"]+)|\[(\d+)\]|\["([^"\]]*)"\]')


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference.

    Attributes:
        root: What it starts from.
        name: Of an input, a step, or the workflow's attribute; "" for other roots.
        path: Keys and indices into the value; the text of a key that is a number is an index.
        text: As it was written, for messages.
    """

    root: str
    name: str
    path: tuple[str | int, ...]
    text: str


@dataclass(slots=True)
class Scope:
    """What references see.

    Attributes:
        inputs: Of the workflow.
        output_of: Output of the step of that name, which is known to have ended.
        workflow: `id` and `name`.
        item: Of a fan-out.
        index: Of that item.
        output: What the step gave that is to be undone.
    """

    inputs: Mapping[str, Any]
    output_of: Callable[[str], Any]
    workflow: Mapping[str, str] = field(default_factory=dict)
    item: Any = NO_ITEM
    index: int | None = None
    output: Any = None

    def value(self, reference: Reference) -> Any:
        """The value, with its type.

        Raises:
            StepError: The path leads nowhere, or into a result that is kept by reference.
        """
        value = self._start(reference)
        for key in reference.path:
            if value is None:
                return None
            value = _step_into(value, key, reference)
        return value

    def _start(self, reference: Reference) -> Any:
        match reference.root:
            case "inputs":
                return self.inputs.get(reference.name)
            case "steps":
                return self.output_of(reference.name)
            case "workflow":
                return self.workflow[reference.name]
            case "index":
                return self.index
            case "output":
                return self.output
            case _:
                assert self.item is not NO_ITEM, "the definition's check lets `item` pass only here"
                return self.item


def _step_into(value: Any, key: str | int, reference: Reference) -> Any:
    match value:
        case dict() if REFERENCE_KEY in value:
            raise _unresolved(
                reference,
                "the result is too large for the store and kept by reference: hand on the whole of "
                "it, or let the step return less",
            )
        case dict() if str(key) in value:
            return value[str(key)]
        case list() if isinstance(key, int):
            if key < len(value):
                return value[key]
            raise _unresolved(reference, f"the list has {len(value)} items, so no item {key}")
        case dict():
            known = ", ".join(sorted(map(repr, value))[:10]) or "none"
            raise _unresolved(reference, f"there is no key {str(key)!r}; there are: {known}")
        case _:
            kind = type(value).__name__
            raise _unresolved(reference, f"{key!r} cannot be looked up in a {kind}")


def _unresolved(reference: Reference, why: str) -> StepError:
    return StepError("invalid", f"{reference.text} has no value: {why}", retryable=False)


def parse_reference(inside: str) -> Reference:
    """Parses what stands between `${` and `}`.

    Raises:
        ValueError: It is no reference; the message shows the form.
    """
    text = f"${{{inside}}}"
    root = _NAME.match(inside)
    if root is None or root.group() not in _NAMED + _BARE:
        raise ValueError(
            f"{text} is no reference: write ${{inputs.NAME}}, ${{steps.NAME}}, ${{item}}, "
            "${index}, ${output} or ${workflow.id}"
        )
    segments = list(_segments(inside, root.end(), text))
    if root.group() in _BARE:
        return Reference(root.group(), "", tuple(segments), text)
    if not segments:
        raise ValueError(f"{text} names nothing: write ${{{root.group()}.NAME}}")
    return Reference(root.group(), str(segments[0]), tuple(segments[1:]), text)


def _segments(inside: str, position: int, text: str) -> Iterator[str | int]:
    while position < len(inside):
        found = _SEGMENT.match(inside, position)
        if found is None:
            raise ValueError(
                f"{text} cannot be read from {inside[position:]!r} on: keys are written .KEY or "
                '["KEY"], items of lists [NUMBER]'
            )
        key, index, quoted = found.groups()
        if quoted is not None:
            yield quoted
        else:
            number = key if index is None else index
            yield int(number) if number.isascii() and number.isdigit() else number
        position = found.end()


class Template:
    """JSON in which strings may hold references."""

    __slots__ = ("_node", "references")

    def __init__(self, value: Any) -> None:
        """Raises ValueError where a reference is malformed; the message says where it stands."""
        self.references: list[tuple[str, Reference]] = []
        self._node = self._compile(value, "")

    def render(self, scope: Scope) -> Any:
        """The value with each reference replaced.

        Raises:
            StepError: A reference has no value.
        """
        return self._node(scope)

    def _compile(self, value: Any, where: str) -> Callable[[Scope], Any]:
        before = len(self.references)
        node: Callable[[Scope], Any]
        match value:
            case str():
                return self._compile_text(value, where)
            case dict():
                fields = [(k, self._compile(v, f"{where}.{k}")) for k, v in value.items()]
                node = _object(fields)
            case list():
                node = _array([self._compile(v, f"{where}[{i}]") for i, v in enumerate(value)])
            case _:
                return lambda _scope: value
        # what holds no reference is handed out as it was written
        return node if len(self.references) > before else lambda _scope: value

    def _compile_text(self, text: str, where: str) -> Callable[[Scope], Any]:
        parts = list(split_text(text))
        for part in parts:
            if isinstance(part, Reference):
                self.references.append((where.lstrip("."), part))
        match parts:
            case [Reference() as whole]:
                return lambda scope: scope.value(whole)
            case _ if any(isinstance(part, Reference) for part in parts):
                return _joined(parts)
            case _:
                plain = "".join(map(str, parts))
                return lambda _scope: plain


def split_text(text: str) -> Iterator[str | Reference]:
    """Plain pieces and references, in order.

    Raises:
        ValueError: A reference is malformed.
    """
    position = 0
    for found in _FOUND.finditer(text):
        if found.start() > position:
            yield text[position : found.start()]
        position = found.end()
        if found.group(1) is None:
            yield "${"
        elif not found.group().endswith("}"):
            raise ValueError(
                f"{text[found.start() :]!r} has no closing brace; `$${{` is plain text"
            )
        else:
            yield parse_reference(found.group(1).strip())
    if position < len(text):
        yield text[position:]


def _object(fields: list[tuple[str, Callable[[Scope], Any]]]) -> Callable[[Scope], Any]:
    return lambda scope: {key: node(scope) for key, node in fields}


def _array(nodes: list[Callable[[Scope], Any]]) -> Callable[[Scope], Any]:
    return lambda scope: [node(scope) for node in nodes]


def _joined(parts: list[str | Reference]) -> Callable[[Scope], Any]:
    def join(scope: Scope) -> str:
        return "".join(
            part if isinstance(part, str) else _as_text(scope.value(part), part) for part in parts
        )

    return join


def _as_text(value: Any, reference: Reference) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and REFERENCE_KEY in value:
        raise _unresolved(
            reference,
            "the result is kept by reference and cannot stand within a text: hand on the whole",
        )
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
