"""How much references give, found out before anything is put together from it.

A definition may name one value ten thousand times. Each naming counts, as each is a copy by the
time that it is handed on, and counting ends where the limit is passed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from actors.workflow.references import Scope, Template
from actors.workflow.tasks import REFERENCE_KEY, StepError


class Size(NamedTuple):
    """Of a value.

    Attributes:
        inline: Bytes of compact JSON, results by reference as their marks.
        kept: Bytes of the results that these marks stand for.
    """

    inline: int
    kept: int


def size_of(value: Any) -> Size:
    """The size of a value that a step, an input or an item has given."""
    inline = len(json.dumps(value, separators=(",", ":")))
    if isinstance(value, list):  # of a fan-out: marks stand nowhere deeper
        return Size(inline, sum(map(kept_bytes, value)))
    return Size(inline, kept_bytes(value))


def kept_bytes(value: Any) -> int:
    """Bytes of the result that a mark stands for; 0 for any other value."""
    if isinstance(value, Mapping) and REFERENCE_KEY in value:
        size: int = value.get("size") or 0
        return size
    return 0


def check_rendered(template: Template, scope: Scope, most: int, what: str) -> None:
    """Refuses what would be too large before it is put together.

    Args:
        template: What is to be rendered; what it says itself is bounded by the definition.
        scope: What its references see.
        most: Bytes of compact JSON, results by reference as their marks.
        what: How messages call it.

    Raises:
        StepError: It is too large (`oversized`), or a reference has no value.
    """
    size = 0
    for _, reference in template.references:
        size += size_of(scope.value(reference)).inline
        if size > most:
            raise StepError(
                "oversized",
                f"{what} has {size} bytes as JSON or more, the most is {most}: keep large data in "
                "files or object storage and hand on where it is",
                retryable=False,
            )
