"""The levels of the compiled kernels that this machine has, for tests of each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from native_ops import binary

Result = TypeVar("Result")

LEVELS = binary.state().levels or ("absent",)
"""Without the binary there is one that cannot be chosen: the tests are to fail, not to be none."""
REFERENCE = "reference"
BACKENDS = (*LEVELS, REFERENCE)


def choose(name: str) -> None:
    """Compute at a level until the test ends: then the highest is back (conftest.py)."""
    assert not binary.state().reason, f"no kernels to test: {binary.state().reason}"
    if name != REFERENCE:
        binary.choose_level(name)


def levels() -> Iterator[str]:
    """Choose one level after the other, and the highest again after the last."""
    for name in LEVELS:
        choose(name)
        yield name
    binary.choose_level("")


def on_each_level(call: Callable[[], Result]) -> list[Result]:
    """What `call` gives at each level, in their order."""
    return [call() for _ in levels()]
