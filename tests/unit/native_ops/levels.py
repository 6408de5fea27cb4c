"""One call on every level of this machine: for property tests, which no fixture may change."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from native_ops import binary

Result = TypeVar("Result")


def on_each_level(call: Callable[[], Result]) -> list[Result]:
    """What `call` gives at each level, the lowest first; the binary must be there."""
    assert not binary.state().reason, binary.state().reason
    results = []
    try:
        for level in binary.state().levels:
            binary.choose_level(level)
            results.append(call())
    finally:
        binary.choose_level("")
    return results
