"""Signs of life of a replica whose answer is not there yet.

A stream that says nothing may wait for its turn, for the model to load, or for a machine that is
gone. A replica in the cloud therefore says at once that it has the job, and again whenever it had
nothing to say for a while: silence then means that the replica, or the way to it, is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from serve.generation.protocol import Delta

HEARTBEAT_SECONDS = 0.75
"""Three of them may come late within the 3 seconds after which a silent replica is given up."""


@dataclass(frozen=True, slots=True)
class Heartbeat(Delta):
    """A delta with nothing in it.

    Attributes:
        node: Name of the machine.
    """

    node: str = ""


async def with_heartbeat(
    source: AsyncGenerator[Delta, None], node: str, seconds: float = HEARTBEAT_SECONDS
) -> AsyncGenerator[Delta, None]:
    """The deltas of a job, with heartbeats first and in between; closing it closes the source."""
    async with aclosing(source):
        yield Heartbeat(node=node)
        following: asyncio.Future[Delta] = asyncio.ensure_future(anext(source))
        try:
            while True:
                await asyncio.wait({following}, timeout=seconds)
                if not following.done():
                    yield Heartbeat(node=node)
                    continue
                try:
                    delta = following.result()
                except StopAsyncIteration:
                    return
                yield delta
                following = asyncio.ensure_future(anext(source))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
