"""Values of steps: JSON of a limited size."""

from __future__ import annotations

import json
from typing import Any

from actors.workflow.shown import why_not_shown
from actors.workflow.tasks import REFERENCE_KEY, StepError

_MARK = f'"{REFERENCE_KEY}":'


def as_json(value: Any, limit: int, what: str, *, marks: bool = False) -> tuple[Any, int]:
    """The value as a replay from the store would see it (tuples are lists), and its bytes.

    Args:
        value: Of a step, or of a user.
        limit: Most bytes that it may have as compact JSON.
        what: How messages call it.
        marks: Whether it may hold marks of results by reference.

    Raises:
        StepError: It is no JSON, or such that no answer can show it (`invalid`), or too large
            (`oversized`).
    """
    if value is None or value is True or value is False:
        return value, 5
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise StepError(
            "invalid",
            f"{what} is no JSON value ({error}): give dictionaries with text keys, lists, texts, "
            "finite numbers, true, false and null",
            retryable=False,
        ) from error
    if len(text) > limit:
        raise StepError(
            "oversized",
            f"{what} has {len(text)} bytes as JSON, the most is {limit}: keep large data in files "
            "or object storage and hand on where it is",
            retryable=False,
        )
    if _MARK in text and not marks:
        raise StepError(
            "invalid",
            f"{what} has a key {REFERENCE_KEY!r}, which marks results by reference: rename it",
            retryable=False,
        )
    read = json.loads(text)
    if (why := why_not_shown(read)) is not None:
        raise StepError(
            "invalid",
            f"{what} cannot be shown ({why}): give whole numbers of 64 bits at most, or as texts, "
            "texts that are valid Unicode, and at most 200 levels",
            retryable=False,
        )
    return read, len(text)


def by_reference(uri: str, size: int | None) -> dict[str, Any]:
    """How a result that is kept outside of the store stands in the inputs of other steps."""
    return {REFERENCE_KEY: uri} if size is None else {REFERENCE_KEY: uri, "size": size}
