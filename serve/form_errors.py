"""Which of pydantic's errors tells the client most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BRANCHES = frozenset({"str", "constrained-str", "bool"})
"""Members of unions, whose names pydantic puts behind those of the fields."""


def telling(errors: Sequence[Any]) -> Any:
    """The first error; where it says that a list is no text, what is wrong inside the list.

    Args:
        errors: At least one, as of `ValidationError.errors()`.
    """
    first = errors[0]
    if not first["loc"] or first["loc"][-1] not in BRANCHES:
        return first
    field = first["loc"][:-1]
    same = [error for error in errors if error["loc"][: len(field)] == field]
    return max(same, key=lambda error: len(error["loc"]))
