"""Finds a key that stands twice in an object of JSON, of which parsers keep the last in silence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any


class _Repeating(dict[str, Any]):
    """An object one of whose keys stands twice."""

    repeated = ""


def repeated_key(content: bytes) -> str | None:
    """Path of a key that stands twice in its object, as `steps.a`; None: there is none.

    Args:
        content: JSON; of what is none, None is said, and whoever reads it says what is wrong.
    """
    is_clean = True

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal is_clean
        made = dict(pairs)
        if len(made) == len(pairs):
            return made
        is_clean = False
        repeating = _Repeating(made)
        [(repeating.repeated, _)] = Counter(key for key, _ in pairs).most_common(1)
        return repeating

    try:
        tree = json.loads(content, object_pairs_hook=keep)
    except (ValueError, RecursionError):
        return None
    return None if is_clean else next(_paths(tree, ""))


def _paths(value: Any, at: str) -> Iterator[str]:
    if isinstance(value, _Repeating):
        yield f"{at}{value.repeated}"
    if isinstance(value, dict):
        for key, inside in value.items():
            yield from _paths(inside, f"{at}{key}.")
    elif isinstance(value, list):
        for index, inside in enumerate(value):
            yield from _paths(inside, f"{at.removesuffix('.')}[{index}].")
