"""What JSON can write and no answer can show: from the store it would break each look at it.

Answers are written by orjson, which has no numbers beyond 64 bits, no half of a surrogate pair, and
254 levels.
"""

from __future__ import annotations

from typing import Any

import orjson

MOST_CHARACTERS = 4_000
"""Of an error's message: each event, view and log line that tells of it has it whole."""
_LEVELS_AROUND = 16
"""So many levels may an answer have around a value."""


def why_not_shown(value: Any) -> str | None:
    """Why a JSON value could never be shown; None: it can.

    Args:
        value: Its objects have text keys.
    """
    for _ in range(_LEVELS_AROUND):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError as error:  # orjson's own is one
        return str(error)
    return None


def showable(text: str) -> str:
    """A text with escapes for halves of surrogate pairs, such as names of files may have."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def cut(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text's beginning, with how many characters follow; a text that is not long as it is."""
    more = len(text) - most
    return text if more <= 0 else f"{text[:most]}... ({more:,} characters more)"


def as_message(text: str) -> str:
    """An error's text as a record keeps it: cut where it is long, and showable."""
    return showable(cut(text))
