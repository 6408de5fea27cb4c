"""A variant whose replicas are those of a Ray Serve deployment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

from ironcliw.errors import IroncliwError, UnavailableError
from serve.engines.protocol import PackedTokens
from serve.generation.protocol import Delta, GenerationJob
from serve.host import Computed
from serve.variants import ReplicaLostError

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)

# Serve's router needs a moment to learn that a replica is gone.
_WAIT_AFTER_LOSS = 0.3
_LOST = (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError, ConnectionError)
_STATS_SECONDS = 2.0
_PROBE_SECONDS = 60.0
_LOAD_SECONDS = 3600.0


class ServeVariant:
    """Replicas of a Serve deployment.

    Serve never re-runs what a replica had accepted. A batch is idempotent, so its loss is reported
    as `ReplicaLostError` and the queue runs it again.

    Args:
        name: Name of the variant.
        handle: Handle of the deployment.
    """

    def __init__(self, name: str, handle: DeploymentHandle[Any]) -> None:
        self.name = name
        self._handle = handle
        # made at first use, since it needs a running event loop
        self._streams: DeploymentHandle[Any] | None = None

    async def embed(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        """Vectors of a batch.

        Raises:
            ReplicaLostError: the replica died with it.
            UnavailableError: no replica answered by the deadline.
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
        """The answer to a job as it grows.

        Raises:
            ReplicaLostError: the replica died; what was not delivered may be computed elsewhere.
            UnavailableError: no replica answered by the deadline.
        """
        if self._streams is None:
            self._streams = self._handle.options(stream=True)
        stream: Any = self._streams.generate.remote(model_id, job)
        try:
            while True:
                try:
                    with self._translated("generate", deadline):
                        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                            delta: Delta = await anext(stream)
                except StopAsyncIteration:
                    return
                except ReplicaLostError:
                    await asyncio.sleep(_WAIT_AFTER_LOSS)
                    raise
                yield delta
        finally:
            # the replica closes the job's iterator, which frees the slot
            stream.cancel()

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
            await asyncio.sleep(_WAIT_AFTER_LOSS)
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
            raise UnavailableError(
                f"no {self.name} replica answered within {seconds:.3g} s", retry_after=2.0
            ) from error
        except _LOST as error:
            reason = type(error).__name__
            logger.warning("lost a %s replica during %s (%s)", self.name, method, reason)
            raise ReplicaLostError(
                f"a {self.name} replica was lost during {method} ({reason})", retry_after=2.0
            ) from error
