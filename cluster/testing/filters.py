"""The list filters of the Compute API, as far as a cluster needs them.

Comparisons joined by AND or by standing side by side in parentheses: `labels.x = y`,
`status = RUNNING`, `name eq 'ironcliw-.*'`, `insertTime > "2026-01-15T12:00:00Z"`, `labels.x:*`.
Source: the `filter` parameter in https://cloud.google.com/compute/docs/reference/rest/v1/instances
/list. OR, NOT and sub-string filters on repeated fields are refused, so that nothing passes here by
luck.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from cluster.testing.api_errors import invalid

_COMPARISON = re.compile(
    r"""^\s* (?P<field>[A-Za-z][\w.-]*) \s*
        (?P<operator>!=|>=|<=|=|:|>|<|\beq\b|\bne\b) \s*
        (?P<value>"[^"]*"|'[^']*'|[^\s"'()]+) \s*$""",
    re.VERBOSE,
)
_GROUPS = re.compile(r"\)\s*(?:AND\s*)?\(|\s+AND\s+")

_TESTS: dict[str, Callable[[str, str], bool]] = {
    "=": lambda found, wanted: found == wanted,
    "!=": lambda found, wanted: found != wanted,
    "eq": lambda found, wanted: re.fullmatch(wanted, found) is not None,
    "ne": lambda found, wanted: re.fullmatch(wanted, found) is None,
    ":": lambda found, wanted: wanted == "*" or wanted.lower() in found.lower(),
    ">": lambda found, wanted: _ordered(found) > _ordered(wanted),
    "<": lambda found, wanted: _ordered(found) < _ordered(wanted),
    ">=": lambda found, wanted: _ordered(found) >= _ordered(wanted),
    "<=": lambda found, wanted: _ordered(found) <= _ordered(wanted),
}


def apply_filter(items: Sequence[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    """The resources that a filter lets through; all of them when it is empty.

    Raises:
        ApiError: 400, the filter cannot be read.
    """
    if not text.strip():
        return list(items)
    comparisons = [_parse(part, text) for part in _GROUPS.split(_without_outer(text))]
    return [item for item in items if all(passes(item) for passes in comparisons)]


def _without_outer(text: str) -> str:
    stripped = text.strip()
    return stripped[1:-1] if stripped.startswith("(") and stripped.endswith(")") else stripped


def _parse(part: str, text: str) -> Callable[[Mapping[str, Any]], bool]:
    match = _COMPARISON.match(_without_outer(part))
    if match is None:
        raise invalid("filter", text, "Invalid list filter expression.")
    field, operator, quoted = match["field"], match["operator"], match["value"]
    wanted = quoted[1:-1] if quoted[0] in "\"'" else quoted
    test = _TESTS[operator]

    def passes(item: Mapping[str, Any]) -> bool:
        found = _look_up(item, field)
        if found is None:
            return operator in ("!=", "ne")
        try:
            return test(found, wanted)
        except (ValueError, re.error) as error:
            raise invalid("filter", text, f"Invalid list filter expression: {error}.") from error

    return passes


def _look_up(item: Mapping[str, Any], field: str) -> str | None:
    value: Any = item
    for part in field.split(".", 1) if field.startswith("labels.") else field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    if isinstance(value, bool):
        return str(value).lower()
    # Google keeps URLs in fields that users know by their last part
    return str(value).rpartition("/")[2] if field in ("zone", "machineType") else str(value)


def _ordered(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"'{text}' has no time zone")
    return moment.timestamp()
