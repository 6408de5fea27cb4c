"""The expressions of alerts and boards, and which metrics and labels they use."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from tests.requirements import need

FOLDER = Path(__file__).resolve().parents[4] / "cluster" / "deploy"
RULES = FOLDER / "prometheus" / "rules.yml"
BOARDS = tuple(sorted((FOLDER / "grafana").glob("*.json")))
_LEGEND_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_ANNOTATION_LABEL = re.compile(r"\$labels\.(\w+)")


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression, where it stands, and the labels by which its result is shown."""

    place: str
    text: str
    shown: frozenset[str] = frozenset()


@dataclass(slots=True)
class Uses:
    """What an expression asks for.

    Attributes:
        labels: Of each metric: those it is matched by.
        values: Of each metric: (label, operator, value) of its matchers.
        grouped: Labels by which results are grouped or matched, whatever the metric.
    """

    labels: dict[str, set[str]] = field(default_factory=dict)
    values: list[tuple[str, str, str, str]] = field(default_factory=list)
    grouped: set[str] = field(default_factory=set)


def read_expressions() -> list[Expression]:
    """All of them, with Grafana's own variables put in."""
    found = []
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            shown = frozenset(_ANNOTATION_LABEL.findall(json.dumps(rule["annotations"])))
            found.append(Expression(f"alert {rule['alert']}", rule["expr"], shown))
    for path in BOARDS:
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                text = target["expr"].replace("$__rate_interval", "1m")
                shown = frozenset(_LEGEND_LABEL.findall(target["legendFormat"]))
                found.append(Expression(f"{path.name}: {panel['title']}", text, shown))
    return found


def uses(text: str) -> Uses:
    """What an expression asks for; ValueError where it is no PromQL."""
    need(find_spec("promql_parser"), "promql-parser is absent: pip install promql-parser")
    parser = importlib.import_module("promql_parser")
    found = Uses()
    for node in _nodes(parser.parse(text)):
        if isinstance(node, parser.VectorSelector):
            labels = found.labels.setdefault(node.name, set())
            for matcher in node.matchers.matchers:
                labels.add(matcher.name)
                found.values.append((node.name, matcher.name, str(matcher.op), matcher.value))
        modifier = getattr(node, "modifier", None)
        found.grouped |= _labels_of(modifier)
    return found


def _labels_of(modifier: Any) -> set[str]:
    """Labels of `by`, `without`, `on` and `ignoring`."""
    if modifier is None:
        return set()
    inner = getattr(modifier, "matching", modifier)
    return set(getattr(inner, "labels", None) or ())


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        inner = getattr(node, name, None)
        if inner is not None and not isinstance(inner, str):
            yield from _nodes(inner)
    for inner in getattr(node, "args", None) or ():
        yield from _nodes(inner)
