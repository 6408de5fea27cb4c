"""Work beside the requests that nobody waits for: it must not end without a word."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""The pause doubles with each failure that follows on another, up to this one."""

Work = Callable[[], Awaitable[None]]


async def keep_going(name: str, work: Work) -> None:
    """Run work that is to go on until it is cancelled; begin it anew where it ends before.

    Args:
        name: How log lines call it.
        work: Called once a beginning.
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        begun = time.monotonic()
        try:
            await work()
            logger.error("%s has ended by itself; it is begun anew", name)
        # the boundary of a task that nobody waits for: its end would be seen by nobody
        except Exception:
            logger.exception("%s has failed; it is begun anew", name)
        if time.monotonic() - begun > LONGEST_PAUSE_SECONDS:  # it went well for a while
            pause = FIRST_PAUSE_SECONDS
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
