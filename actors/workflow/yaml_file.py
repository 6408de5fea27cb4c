"""Workflows written in YAML; messages name the file and the line.

Read is what JSON can say, as YAML 1.2 writes it: `no` and `on` are texts, dates stay texts, a key
that stands twice is an error, and so are anchors (a few lines of them can grow to gigabytes).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from actors.workflow.definition import MAX_BYTES, Definition, define
from ironcliw.errors import RequestError

_PREFIX = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (as in the parent)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="anchors are not read: write the value again",
                problem_mark=self.get_mark(),
            )
        return super().compose_node(parent, index)


# YAML 1.2.2, section 10.3.2 (core schema), less octal and hexadecimal numbers
for _tag, _pattern, _first in (
    ("null", r"null|~|", ["n", "~", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_PREFIX + _tag, re.compile(rf"(?:{_pattern})\Z"), _first)


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # the parent reads 010 as eight


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node))


_Loader.add_constructor(f"{_PREFIX}int", _int)
_Loader.add_constructor(f"{_PREFIX}float", _float)


def load_definition(file: Path) -> Definition:
    """Reads and checks a definition.

    Raises:
        RequestError: The file cannot be read, is no YAML, or breaks a rule: the message begins with
            `FILE:LINE:`.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file} cannot be read: {error}") from error
    return parse_definition(text, str(file))


def parse_definition(text: str, name: str) -> Definition:
    """As `load_definition`, of text; `name` is how messages call it."""
    if len(text) > MAX_BYTES:
        raise RequestError(f"{name} has {len(text)} characters, the most is {MAX_BYTES}")
    source, lines = _parse(text, name)
    if not isinstance(source, dict):
        raise RequestError(f"{name}:1: a workflow begins with `name:` and `steps:`")
    try:
        return define(source)
    except RequestError as error:
        line = _line_of(error.param or "", lines)
        raise RequestError(
            f"{name}:{line}: {error.message}", param=error.param, code=error.code
        ) from error


def _parse(text: str, name: str) -> tuple[Any, Mapping[str, int]]:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines = dict(_lines(node, ""))
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        raise RequestError(f"{name}:{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RequestError(f"{name}:1: this is no YAML: {error}") from error


def _lines(node: yaml.Node, path: str) -> Iterator[tuple[str, int]]:
    """Line of each value, by its path; raises where a key stands twice."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_PREFIX}str":
                raise yaml.MarkedYAMLError(
                    problem="a key must be a text: put it in quotes", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands in line {seen[key.value]} already",
                    problem_mark=key.start_mark,
                )
            seen[key.value] = line
            inside = f"{path}.{key.value}".lstrip(".")
            yield from _lines(value, inside)
            yield inside, line
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, f"{path}[{index}]")


def _line_of(param: str, lines: Mapping[str, int]) -> int:
    """Line of the field, or of what it stands in."""
    path = param
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path, 1)
