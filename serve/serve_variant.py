"""A variant whose replicas are those of a Ray Serve deployment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from typing import TYPE_CHECKING, Any

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
    RpcError,
    WorkerCrashedError,
)
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

from ironcliw.errors import IroncliwError, UnavailableError
from serve.engines.protocol import PackedTokens
from serve.generation.protocol import Delta, GenerationJob
from serve.host import Computed
from serve.variants import ReplicaLostError, ReplicaSilentError

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)

# Serve's router needs a moment to learn that a replica is gone.
_WAIT_AFTER_LOSS = 0.3
_LOST = (
    RayActorError,
    NodeDiedError,
    ObjectLostError,  # large answers stay on the replica's machine until they are read
    RpcError,
    WorkerCrashedError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    ConnectionError,
)
_STATS_SECONDS = 2.0
# So long before the deadline of an answer of which nothing came, somebody asks who is there.
_ASK_SECONDS = 1.0
_PROBE_SECONDS = 60.0
_LOAD_SECONDS = 3600.0


class ServeVariant:
    """Replicas of a Serve deployment.

    Serve never re-runs what a replica had accepted. A batch is idempotent, so its loss is reported
    as `ReplicaLostError` and the queue runs it again.

    Args:
        name: Name of the variant.
        handle: Handle of the deployment.
        wait_after_loss: Seconds before a loss is reported; nobody who asks again at once finds the
            replica still known.
    """

    def __init__(
        self, name: str, handle: DeploymentHandle[Any], wait_after_loss: float = _WAIT_AFTER_LOSS
    ) -> None:
        self.name = name
        self._handle = handle
        self._wait_after_loss = wait_after_loss
        # made at first use, since it needs a running event loop
        self._streams: DeploymentHandle[Any] | None = None

    async def embed(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        """Vectors of a batch.

        Raises:
            ReplicaLostError: the replica died with it.
            ReplicaSilentError: no replica answered by the deadline.
        """
        computed: Computed = await self._call("embed", deadline, model_id, batch)
        return computed

    async def classify(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        """Logits of a batch; as `embed`."""
        computed: Computed = await self._call("classify", deadline, model_id, batch)
        return computed

    async def class_labels(self, model_id: str, deadline: float) -> tuple[str, ...]:
        """Names of a classifier's classes."""
        return tuple(await self._call("class_labels", deadline, model_id))

    async def generate(
        self, model_id: str, job: GenerationJob, deadline: float
    ) -> AsyncGenerator[Delta, None]:
        """The answer to a job as it grows; after the first delta the deadline is the reader's.

        Raises:
            ReplicaLostError: the replica died; what was not delivered may be computed elsewhere.
            UnavailableError: no replica is there, or none answered by the deadline.
        """
        if self._streams is None:
            # Serve's default, cloudpickle, takes four times as long for a token's message
            self._streams = self._handle.options(
                stream=True, request_serialization="pickle", response_serialization="pickle"
            )
        stream: Any = self._streams.generate.remote(model_id, job)
        begun = False
        try:
            while True:
                try:
                    with self._translated("generate", deadline):
                        following = anext(stream)
                        delta: Delta = await (
                            following if begun else self._first(following, deadline)
                        )
                    begun = True
                except StopAsyncIteration:
                    return
                except ReplicaLostError:
                    await asyncio.sleep(self._wait_after_loss)
                    raise
                yield delta
        finally:
            # the replica closes the job's iterator, which frees the slot
            stream.cancel()

    async def _first(self, delta: Awaitable[Delta], deadline: float) -> Delta:
        """The first delta of an answer.

        Serve's handle waits without end where there is no replica, as for one that is at work. So
        before the time is over somebody asks: the client is to know which of both it was.

        Raises:
            UnavailableError: there is no replica.
        """
        waiting = asyncio.ensure_future(delta)
        remaining = deadline - time.monotonic()
        ask = min(_ASK_SECONDS, remaining / 2)
        try:
            async with asyncio.timeout(max(0.0, remaining)):
                await asyncio.wait({waiting}, timeout=max(0.0, remaining - ask))
                if not waiting.done():
                    await self._require_replica(ask / 2)
                return await waiting
        finally:
            waiting.cancel()

    async def _require_replica(self, seconds: float) -> None:
        try:
            await self._call("stats", time.monotonic() + seconds)
        except ReplicaLostError:
            raise
        except UnavailableError as error:
            raise UnavailableError(
                f"no {self.name} replica is there to answer; it is being started or replaced, so "
                "ask again",
                retry_after=2.0,
            ) from error

    async def load(self, model_id: str, pin: bool, ttl: float | None) -> None:
        """Load a model."""
        await self._call("load", time.monotonic() + _LOAD_SECONDS, model_id, pin, ttl)

    async def unload(self, model_id: str, force: bool) -> None:
        """Free a model."""
        await self._call("unload", time.monotonic() + _LOAD_SECONDS, model_id, force)

    async def probe(self, model_id: str) -> float:
        """A real forward pass; returns its milliseconds."""
        return float(await self._call("probe", time.monotonic() + _PROBE_SECONDS, model_id))

    async def stats(self) -> dict[str, Any]:
        """Budget, bytes and models."""
        return dict(await self._call("stats", time.monotonic() + _STATS_SECONDS))

    async def events(self, model_id: str) -> AsyncIterator[dict[str, Any]]:
        """State changes of a model, without end."""
        stream = self._handle.options(stream=True).events.remote(model_id)
        async for event in stream:  # type: ignore[union-attr]  # `stream=True` makes it a generator
            yield event

    async def _call(self, method: str, deadline: float, *args: Any) -> Any:
        try:
            with self._translated(method, deadline):
                # while there is no replica, Serve's handle waits without end
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    return await getattr(self._handle, method).remote(*args)
        except ReplicaLostError:
            await asyncio.sleep(self._wait_after_loss)
            raise

    @contextlib.contextmanager
    def _translated(self, method: str, deadline: float) -> Iterator[None]:
        """Our errors for Ray's."""
        seconds = deadline - time.monotonic()
        try:
            yield
        except RayTaskError as error:
            if isinstance(error.cause, IroncliwError):
                raise error.cause from error
            raise
        except TimeoutError as error:
            raise ReplicaSilentError(
                f"no {self.name} replica answered within {seconds:.3g} s", retry_after=2.0
            ) from error
        except _LOST as error:
            reason = type(error).__name__
            logger.warning("lost a %s replica during %s (%s)", self.name, method, reason)
            raise ReplicaLostError(
                f"a {self.name} replica was lost during {method} ({reason})", retry_after=2.0
            ) from error
