"""Changes of the models' states as a stream, for whoever shows the progress of a load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

KEPT = 256  # a subscriber who reads too slowly loses the oldest events above this


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """A change of a model's state, or progress of its load.

    Attributes:
        state: `queued`, `loading`, `ready`, `unloading`, `absent` or `failed`.
        fraction: How much of the load is done, 0 to 1; None where that is not known.
        error: Why it failed.
    """

    model: str
    state: str
    fraction: float | None = None
    error: str | None = None


class EventHub:
    """Copies each event to every subscriber; belongs to one event loop."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[ModelEvent]] = set()

    def publish(self, event: ModelEvent) -> None:
        """Give the event to all who subscribe now; never waits."""
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    @contextmanager
    def subscribe(self) -> Iterator[AsyncIterator[ModelEvent]]:
        """The events from now on, an endless async iterator, until the block ends."""
        queue: asyncio.Queue[ModelEvent] = asyncio.Queue(KEPT)
        self._queues.add(queue)
        try:
            yield _drain(queue)
        finally:
            self._queues.discard(queue)


async def _drain(queue: asyncio.Queue[ModelEvent]) -> AsyncIterator[ModelEvent]:
    while True:
        yield await queue.get()
