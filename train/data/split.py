"""Which rows are held out, and which are there twice: pure functions of the rows' contents."""

from __future__ import annotations

from collections.abc import Collection, Iterable

_WHOLE = 1 << 64


def is_held_out(key: bytes, share: float) -> bool:
    """Whether a row belongs to the held-out part.

    A hash decides, so a row stays on its side whatever rows are added or removed, and rows that
    are equal but for white space are on one side.

    Args:
        key: `train.data.examples.split_key` of the row.
        share: Of all rows, from 0 to 1.
    """
    return int.from_bytes(key[:8], "big") < share * _WHOLE


def first_places(keys: Iterable[bytes]) -> list[int]:
    """For each row the number of the first row of the same content: its own, mostly."""
    first: dict[bytes, int] = {}
    return [first.setdefault(key, number) for number, key in enumerate(keys)]


def shared(keys: Iterable[bytes], others: Collection[bytes]) -> list[bool]:
    """For each row whether another set of rows has its content too."""
    found = frozenset(others)
    return [key in found for key in keys]
