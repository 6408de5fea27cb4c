"""Whether the compiled kernels are installed, told without loading them or torch."""

from __future__ import annotations

import importlib.util

MODULE = "_ironcliw_native"

ABSENT = "there are no compiled kernels; run `make native` where a C++ compiler is"
"""What is said where they are not."""


def installed() -> bool:
    """Whether there is a binary; whether it fits is known once it is loaded."""
    return importlib.util.find_spec(MODULE) is not None


def slow_because(reason: str) -> str:
    """What stands in place of a level where the kernels are not used."""
    return f"none, the slow references in torch: {reason}"
