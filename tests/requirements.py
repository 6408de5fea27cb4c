"""Programs that some tests need and that `pip` cannot install."""

from __future__ import annotations

import os
import sys
from typing import TypeVar

import pytest

from cluster.testing.network import why_unavailable

T = TypeVar("T")


def need(found: T | None, reason: str) -> T:
    """What was found; without it the test is skipped, and under CI it fails.

    A machine of somebody who tries the project may lack a database server. CI may not: there a
    skipped test would look like a passed one.

    Args:
        found: A program's path, for example; None where it is absent.
        reason: What is absent and which package to install.
    """
    if found is not None:
        return found
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (CI is set, so this is no reason to skip)")
    pytest.skip(reason)


def need_namespaces() -> None:
    """Skip a test where no network namespaces can be made.

    Under CI it fails only if CI has the rights, which root on Linux has: CI without them (a
    container of somebody who tries the project) is told in the summary, as everybody is.
    """
    reason = why_unavailable()
    if reason is None:
        return
    if os.environ.get("CI") and sys.platform == "linux" and os.geteuid() == 0:
        pytest.fail(f"{reason} (CI is set and runs as root, so this is no reason to skip)")
    pytest.skip(reason)
