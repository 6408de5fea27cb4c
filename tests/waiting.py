"""Waits for what a test expects: on a condition, never for a fixed time.

The limit is there to end a run in which the condition never comes true. It is generous, since on a
busy machine everything takes many times as long, and to reach a tight limit says nothing there.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

PATIENCE_SECONDS = 60.0
_EVERY_SECONDS = 0.005

Found = TypeVar("Found")


def wait_for(condition: Callable[[], Found], seconds: float = PATIENCE_SECONDS) -> Found:
    """Wait until a condition says something true, and return what it said.

    Raises:
        AssertionError: It did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"the condition did not come true in {seconds:g} s"
        time.sleep(_EVERY_SECONDS)
    return found


async def until(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> None:
    """Let the event loop run until a condition, or a coroutine function, says something true.

    Raises:
        AssertionError: It did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await asyncio.wait_for(found, seconds)
        if found:
            return
        assert time.monotonic() < deadline, f"the condition did not come true in {seconds:g} s"
        await asyncio.sleep(_EVERY_SECONDS)
