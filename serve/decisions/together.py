"""Several coroutines at once, of which none outlives a failure of another."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


async def together(work: Iterable[Coroutine[Any, Any, ResultT]]) -> list[ResultT]:
    """The results in order.

    `asyncio.gather` lets the others run on after a failure, for nobody; here they are cancelled
    and have ended when its error is raised.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
