"""What pydantic says of a wrong value, in the words of somebody who writes a file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

# pydantic's type of an error: what somebody who wrote a list has to know
_LISTS = {
    "tuple_type": "a list is expected",
    "too_short": "a list of at least {min_length} is expected",
    "too_long": "a list of at most {max_length} is expected",
}
_FOLLOWS = "default_factory_not_called"


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The known key that may have been meant; None: none is like it."""
    return next(iter(difflib.get_close_matches(key, sorted(known), n=1)), None)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """That a key is not known, and which one may have been meant."""
    names = sorted(known)
    if not names:
        return "unknown key"
    near = nearest(key, names)
    return f"unknown key; {f'did you mean {near!r}?' if near else 'known are ' + ', '.join(names)}"


def follows(item: Mapping[str, Any]) -> bool:
    """Whether an error is there only because of another one, and says nothing new."""
    return bool(item["type"] == _FOLLOWS)


def what_is_wrong(item: Mapping[str, Any], known: Iterable[str] = ()) -> str:
    """The rule that a value breaks.

    Args:
        item: One of `ValidationError.errors()`.
        known: The keys beside it, if it is a key that is not known.
    """
    if item["type"] == "extra_forbidden":
        return unknown_key(str(item["loc"][-1]), known)
    words = _LISTS.get(item["type"])
    if words is not None:
        return words.format(**item.get("ctx", {}))
    return str(item["msg"]).removeprefix("Value error, ")
