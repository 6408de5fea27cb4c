"""A model's queues where there is a cloud: one for each side, and requests that change sides.

Each side has its own queue, since each computes at its own pace: the one at home refuses what it
cannot do in time, which is what sends a request to the cloud. Batches are made again for each
attempt, so that what comes home from a lost side shares batches with what was there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from ironcliw.setting_sections import ServeSettings
from serve.batcher import Priority
from serve.batching import BatchObserver, BatchQueue, Item, Vector
from serve.engines.protocol import PackedTokens
from serve.failover_router import FailoverRouter
from serve.failover_terms import Attempt, Ending, Failure, Route, Side
from serve.failover_variant import FailoverVariant
from serve.host import Computed
from serve.lanes import Lane, ModelLane, batch_limits
from serve.variants import NotSentError, ReplicaLostError, ReplicaSilentError, Variant

Compute = Callable[[PackedTokens, float], Awaitable[Computed]]

# An attempt may take so many times what it is expected to.
_SLACK = 3.0
# Before a batch was seen: a byte of weights in float32 costs half an operation a token and side of
# a multiplication, and a slow machine does 5e10 operations a second.
_SECONDS_PER_BYTE_AND_TOKEN = 0.5 / 5e10


class _Row(NamedTuple):
    """A vector, and the machine that computed it."""

    vector: Vector
    node: str


class FailoverLane:
    """The queues of one model on both sides.

    Args:
        router: Says where a request goes.
        model_id: The model.
        local: Computes at home.
        spot: Computes in the cloud.
        settings: Limits of a batch and of each queue.
        observer: Told of every batch.
        padded: As of `ModelLane`.
    """

    def __init__(
        self,
        router: FailoverRouter,
        model_id: str,
        local: Compute,
        spot: Compute,
        settings: ServeSettings,
        observer: BatchObserver | None,
        *,
        padded: bool = False,
    ) -> None:
        self._router = router
        self._model = model_id
        self._timeout = settings.request_timeout_seconds
        self._home = ModelLane(router.local.name, local, settings, observer, padded=padded)
        self._spot = spot
        self._bytes = router.catalog[model_id].bytes
        self._cloud = BatchQueue(
            batch_limits(settings, padded=padded), self._run, router.clock, observer=observer
        )
        self.route = self._home.route

    async def submit(
        self, sequences: Sequence[Item], priority: Priority, deadline: float | None
    ) -> tuple[list[Vector], Route]:
        """See `serve.lanes.Lane`.

        Raises:
            IroncliwError: what the last attempt said, or why there was none.
        """
        end = self._router.clock() + self._timeout if deadline is None else deadline
        (rows, self.route), attempt = await self._router.run(
            self._model, end, partial(self._attempt, sequences, priority)
        )
        return rows, self.route._replace(degraded=attempt.degraded)

    def queues(self, model: str) -> Mapping[str, BatchQueue]:
        """See `serve.lanes.Lane`."""
        return {model: self._home.queue, f"{model} on {self._router.spot.name}": self._cloud}

    async def close(self) -> None:
        """See `serve.lanes.Lane`."""
        await self._home.close()
        await self._cloud.close()

    async def _attempt(
        self, sequences: Sequence[Item], priority: Priority, attempt: Attempt
    ) -> tuple[list[Vector], Route]:
        if attempt.side is Side.LOCAL:
            return await self._home.submit(sequences, priority, attempt.deadline)
        given: list[Any] = await self._cloud.submit(
            sequences, priority=priority, deadline=attempt.deadline
        )
        rows: list[_Row] = given
        return [row.vector for row in rows], Route(self._router.spot.name, rows[-1].node)

    async def _run(self, sequences: list[Item]) -> Any:
        """A batch in the cloud: a `_Row` for each sequence; the queue hands on whatever it gets."""
        if not self._router.is_awake():
            # sent now it would only wait for its time to be over
            raise NotSentError(f"{self._router.spot.name} no longer takes requests")
        batch = PackedTokens.pack(sequences)
        limit = self._seconds(len(batch.tokens))
        began = self._router.clock()
        try:
            computed = await self._spot(batch, began + limit)
        except (ReplicaLostError, ReplicaSilentError) as error:
            # whoever asked may have left before, with a short deadline
            ending = Ending.LOST if isinstance(error, ReplicaLostError) else Ending.SILENT
            self._router.failed(self._model, Failure(Side.SPOT, ending), began)
            raise
        self._router.heard()
        return [_Row(vector, computed.node) for vector in computed.vectors]

    def _seconds(self, tokens: int) -> float:
        """How long a batch may take that was just sent, with what was sent before it."""
        expected = self._cloud.in_flight_seconds()
        if expected is None:
            expected = self._bytes * tokens * _SECONDS_PER_BYTE_AND_TOKEN
        return max(self._router.attempt_seconds, _SLACK * expected)


def open_lane(
    variant: Variant,
    kind: Literal["embed", "classify"],
    model_id: str,
    settings: ServeSettings,
    observer: BatchObserver | None,
    *,
    padded: bool = False,
) -> Lane:
    """The lane of a model: one queue, or one for each side where the variant has two."""
    if isinstance(variant, FailoverVariant):
        router = variant.router
        local, spot = (
            partial(getattr(side, kind), model_id) for side in (router.local, router.spot)
        )
        return FailoverLane(router, model_id, local, spot, settings, observer, padded=padded)
    compute = partial(getattr(variant, kind), model_id)
    return ModelLane(variant.name, compute, settings, observer, padded=padded)
