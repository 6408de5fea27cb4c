"""A model's queue and the replicas behind it: what every batched kind of model shares.

Where there is a cloud, `serve.failover_lane` has one such queue for each side.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from ironcliw.setting_sections import ServeSettings
from serve.batcher import BatchLimits, Priority
from serve.batching import BatchObserver, BatchQueue, Item, Vector
from serve.engines.protocol import PackedTokens, Vectors
from serve.failover_terms import Route
from serve.host import Computed
from serve.variants import ReplicaLostError

# A request that takes its replica down each time must not go on doing so.
_MAX_LOSSES = 5


class Lane(Protocol):
    """Where the sequences of one model's requests go."""

    @property
    def route(self) -> Route:
        """Who computed the last batch."""
        ...

    async def submit(
        self, sequences: Sequence[Item], priority: Priority, deadline: float | None
    ) -> tuple[list[Vector], Route]:
        """A vector for each sequence, and who computed them; as `BatchQueue.submit`."""
        ...

    def queues(self, model: str) -> Mapping[str, BatchQueue]:
        """The queues, by the model's name and, for one in the cloud, a word more."""
        ...

    async def close(self) -> None:
        """Fail what waits and stop."""
        ...


class ModelLane:
    """The queue of one model, and who computed its last batch.

    Args:
        variant: Name of the variant that computes.
        compute: Computes a batch by a deadline on the clock of `time.monotonic`.
        settings: Limits of a batch and of the queue.
        observer: Told of every batch.
        padded: Whether the engine pads, so that a batch costs its longest text times their number.
    """

    def __init__(
        self,
        variant: str,
        compute: Callable[[PackedTokens, float], Awaitable[Computed]],
        settings: ServeSettings,
        observer: BatchObserver | None,
        *,
        padded: bool = False,
    ) -> None:
        self.route = Route(variant, "")
        self._compute = compute
        self._timeout = settings.request_timeout_seconds
        self.queue = BatchQueue(
            batch_limits(settings, padded=padded),
            self._run,
            observer=observer,
            retry_on=(ReplicaLostError,),
            max_losses=_MAX_LOSSES,
        )

    async def submit(
        self, sequences: Sequence[Item], priority: Priority, deadline: float | None
    ) -> tuple[list[Vector], Route]:
        """See `Lane`."""
        rows = await self.queue.submit(sequences, priority=priority, deadline=deadline)
        return rows, self.route

    def queues(self, model: str) -> Mapping[str, BatchQueue]:
        """See `Lane`."""
        return {model: self.queue}

    async def close(self) -> None:
        """See `Lane`."""
        await self.queue.close()

    async def _run(self, sequences: list[Item]) -> Vectors:
        batch = PackedTokens.pack(sequences)
        computed = await self._compute(batch, time.monotonic() + self._timeout)
        if computed.node != self.route.node:
            self.route = Route(self.route.variant, computed.node)
        return computed.vectors


def batch_limits(settings: ServeSettings, *, padded: bool) -> BatchLimits:
    """The limits of a model's queue."""
    return BatchLimits(
        max_batch_tokens=settings.batch_tokens,
        max_batch_items=settings.batch_items,
        max_queue_tokens=settings.max_queue_tokens,
        max_queue_seconds=settings.max_queue_seconds,
        padded=padded,
    )
