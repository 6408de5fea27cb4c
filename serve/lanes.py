"""A model's queue and the replicas behind it: what every batched kind of model shares."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from ironcliw.setting_sections import ServeSettings
from serve.batcher import BatchLimits
from serve.batching import BatchObserver, BatchQueue
from serve.engines.protocol import PackedTokens, Tokens, Vectors
from serve.host import Computed
from serve.variants import ReplicaLostError

# A request that takes its replica down each time must not go on doing so.
_MAX_LOSSES = 5


class ModelLane:
    """The queue of one model, and who computed its last batch.

    Args:
        compute: Computes a batch by a deadline on the clock of `time.monotonic`.
        settings: Limits of a batch and of the queue.
        observer: Told of every batch.
        padded: Whether the engine pads, so that a batch costs its longest text times their number.
    """

    def __init__(
        self,
        compute: Callable[[PackedTokens, float], Awaitable[Computed]],
        settings: ServeSettings,
        observer: BatchObserver | None,
        *,
        padded: bool = False,
    ) -> None:
        self.node = ""
        self._compute = compute
        self._timeout = settings.request_timeout_seconds
        limits = BatchLimits(
            max_batch_tokens=settings.batch_tokens,
            max_batch_items=settings.batch_items,
            max_queue_tokens=settings.max_queue_tokens,
            max_queue_seconds=settings.max_queue_seconds,
            padded=padded,
        )
        self.queue = BatchQueue(
            limits,
            self._run,
            observer=observer,
            retry_on=(ReplicaLostError,),
            max_losses=_MAX_LOSSES,
        )

    async def _run(self, sequences: list[Tokens]) -> Vectors:
        batch = PackedTokens.pack(sequences)
        computed = await self._compute(batch, time.monotonic() + self._timeout)
        self.node = computed.node
        return computed.vectors
