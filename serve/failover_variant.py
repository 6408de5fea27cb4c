"""Both sides as one variant: `local` at home, `spot` in the cloud, and requests that change sides.

Batches go through `serve.failover_lane`, texts through `RoutedGeneration`, one for each request.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np

from ironcliw.errors import IroncliwError, UnavailableError
from serve.engines.protocol import PackedTokens
from serve.failover_router import FailoverRouter
from serve.failover_terms import Attempt, Route, Side
from serve.generation.protocol import Delta, GenerationJob
from serve.heartbeat import HEARTBEAT_SECONDS, Heartbeat
from serve.host import Computed
from serve.variants import ReplicaSilentError

# Of the time that is left: how long a side may be silent where there is another one to ask.
_SHARE = 2 / 3


class FailoverVariant:
    """A `Variant` of two sides.

    Args:
        router: Has both.
    """

    def __init__(self, router: FailoverRouter) -> None:
        self.router = router
        self.name = router.local.name

    async def embed(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        """Vectors of a batch, for a caller without a queue of its own."""
        computed, _ = await self.router.run(
            model_id,
            deadline,
            lambda a: self.router.variant(a.side).embed(model_id, batch, self._end(a)),
        )
        return computed

    async def classify(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        """Logits of a batch; as `embed`."""
        computed, _ = await self.router.run(
            model_id,
            deadline,
            lambda a: self.router.variant(a.side).classify(model_id, batch, self._end(a)),
        )
        return computed

    async def class_labels(self, model_id: str, deadline: float) -> tuple[str, ...]:
        """Names of a classifier's classes."""
        labels, _ = await self.router.run(
            model_id,
            deadline,
            lambda a: self.router.variant(a.side).class_labels(model_id, self._end(a)),
        )
        return labels

    def generate(
        self, model_id: str, job: GenerationJob, deadline: float
    ) -> AsyncGenerator[Delta, None]:
        """The answer to a job as it grows."""
        return self.for_request().generate(model_id, job, deadline)

    def for_request(self) -> RoutedGeneration:
        """The variant of one request, which knows who answers it."""
        return RoutedGeneration(self.router)

    async def load(self, model_id: str, pin: bool, ttl: float | None) -> None:
        """Load a model where it belongs; a replica in the cloud is waited for, and pins nothing."""
        if self.router.catalog[model_id].placement == "spot":
            await self.router.spot.load(model_id, False, ttl)
        else:
            await self.router.local.load(model_id, pin, ttl)

    async def unload(self, model_id: str, force: bool) -> None:
        """Free a model on both sides."""
        await self.router.local.unload(model_id, force)
        if self.router.is_awake():
            await self.router.spot.unload(model_id, force)

    async def probe(self, model_id: str) -> float:
        """A real forward pass at home."""
        return await self.router.local.probe(model_id)

    async def stats(self) -> dict[str, Any]:
        """Budget, bytes and models at home; asking the cloud would keep its machines awake."""
        stats = await self.router.local.stats()
        self.router.room.see(stats)
        return stats

    def events(self, model_id: str) -> AsyncIterator[dict[str, Any]]:
        """State changes of a model, where it is loaded."""
        spot = self.router.catalog[model_id].placement == "spot"
        return self.router.variant(Side.SPOT if spot else Side.LOCAL).events(model_id)

    def _end(self, attempt: Attempt) -> float:
        """When a replica that said nothing is given up; the router ends an attempt in time."""
        if attempt.side is Side.LOCAL:
            return attempt.deadline
        return self.router.clock() + self.router.attempt_seconds


class RoutedGeneration:
    """The texts of one request.

    Attributes:
        route: Who gave the last first delta; what is known when an answer begins.
    """

    def __init__(self, router: FailoverRouter) -> None:
        self._router = router
        self.route = Route(router.local.name, "")

    @property
    def name(self) -> str:
        """Of the side that answers."""
        return self.route.variant

    async def generate(
        self, model_id: str, job: GenerationJob, deadline: float
    ) -> AsyncGenerator[Delta, None]:
        """The answer to a job as it grows; goes on elsewhere when the cloud's replica is lost.

        Raises:
            ReplicaLostError: the replica at home died: `serve.generation.answering` goes on.
            IroncliwError: what the last attempt said, or why there was none.
        """
        received: list[int] = job.generated.tolist()
        way = self._router.way(model_id, deadline)
        while True:
            attempt = await way.next()
            part = dataclasses.replace(job, generated=np.array(received, np.int32))
            try:
                async with aclosing(self._deltas(attempt, model_id, part, deadline)) as deltas:
                    async for delta in deltas:
                        received += [draw.id for draw in delta.tokens]
                        if delta.finish is not None or delta.scores is not None:
                            way.worked()  # readers close this at the last delta
                        yield delta
                return
            except (IroncliwError, TimeoutError) as error:
                way.failed(error)
                if len(received) >= job.max_tokens:  # only the word that it is whole was lost
                    yield Delta(finish="length")
                    return

    async def stats(self) -> dict[str, Any]:
        """Of the side that answers."""
        if self.route.variant == self._router.local.name:
            return await self._router.local.stats()
        return await self._router.spot.stats()

    async def _deltas(
        self, attempt: Attempt, model_id: str, job: GenerationJob, deadline: float
    ) -> AsyncGenerator[Delta, None]:
        """What one side says."""
        variant = self._router.variant(attempt.side)
        self.route = Route(variant.name, "", attempt.degraded)
        if attempt.side is Side.LOCAL:
            deltas = variant.generate(model_id, job, deadline)
        else:  # a deadline of its own, later than any here: silence alone is its fault
            late = deadline + self._router.attempt_seconds
            deltas = self._audible(variant.generate(model_id, job, late), deadline)
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta

    async def _audible(
        self, deltas: AsyncGenerator[Delta, None], deadline: float
    ) -> AsyncGenerator[Delta, None]:
        """The deltas, as long as something comes every few seconds; a heartbeat will do.

        Raises:
            ReplicaSilentError: nothing came for the time of an attempt.
            TimeoutError: nothing came for what the deadline allows.
        """
        router, ended = self._router, False
        async with aclosing(deltas):
            while not ended:
                left = max(_SHARE * (deadline - router.clock()), 2 * HEARTBEAT_SECONDS)
                try:
                    async with asyncio.timeout(min(router.attempt_seconds, left)):
                        delta = await anext(deltas)
                except TimeoutError as error:
                    if left < router.attempt_seconds:
                        raise
                    raise ReplicaSilentError(
                        f"a {router.spot.name} replica said nothing for "
                        f"{router.attempt_seconds:g} s in the middle of an answer",
                        retry_after=2.0,
                    ) from error
                except StopAsyncIteration:
                    raise UnavailableError("the answer stopped in the middle; ask again") from None
                router.heard()
                if isinstance(delta, Heartbeat):
                    self.route = self.route._replace(node=delta.node)
                    continue
                ended = delta.finish is not None or delta.scores is not None
                yield delta
