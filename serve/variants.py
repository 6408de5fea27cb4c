"""Where a model can run: one variant is one group of engine replicas.

Today there is `local`, on the head. The router asks a variant for vectors and never knows whether
a Ray actor or this very process computes them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

from ironcliw.errors import IroncliwError, UnavailableError
from serve.engines.protocol import PackedTokens
from serve.host import Computed, ModelHost

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)

_FIRST_WAIT = 0.1
_LONGEST_WAIT = 1.0
# A batch that takes its replica down each time must not go on doing so.
_MAX_LOSSES = 8
# A replica that died shows up as one of these: nothing of its answer was sent, so that asking
# another one is safe for anything without side effects.
LOST_REPLICA = (RayActorError, DeploymentUnavailableError, RayServeException, ConnectionError)


class Variant(Protocol):
    """One group of replicas that can run models."""

    @property
    def name(self) -> str:
        """`local` or `spot`."""
        ...

    async def embed(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        """Vectors of a batch; deadline in seconds of `time.monotonic`."""
        ...

    async def load(self, model_id: str, pin: bool, ttl: float | None) -> None:
        """Load a model."""
        ...

    async def unload(self, model_id: str, force: bool) -> None:
        """Free a model."""
        ...

    async def probe(self, model_id: str) -> float:
        """A real forward pass; returns its milliseconds."""
        ...

    async def stats(self) -> dict[str, Any]:
        """Budget, bytes and models."""
        ...

    def events(self, model_id: str) -> AsyncIterator[dict[str, Any]]:
        """State changes of a model, without end."""
        ...


class ServeVariant:
    """Replicas of a Serve deployment.

    Inference is idempotent, so a batch whose replica died is sent again until its deadline. Serve
    itself never re-runs what a replica had accepted.
    """

    def __init__(self, name: str, handle: DeploymentHandle[Any]) -> None:
        self.name = name
        self._handle = handle

    async def embed(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        """Vectors of a batch, from whichever replica is alive."""
        computed: Computed = await self._call("embed", deadline, model_id, batch)
        return computed

    async def load(self, model_id: str, pin: bool, ttl: float | None) -> None:
        """Load a model."""
        await self._call("load", time.monotonic() + 600, model_id, pin, ttl)

    async def unload(self, model_id: str, force: bool) -> None:
        """Free a model."""
        await self._call("unload", time.monotonic() + 60, model_id, force)

    async def probe(self, model_id: str) -> float:
        """A real forward pass; returns its milliseconds."""
        return float(await self._call("probe", time.monotonic() + 60, model_id))

    async def stats(self) -> dict[str, Any]:
        """Budget, bytes and models."""
        return dict(await self._call("stats", time.monotonic() + 2))

    async def events(self, model_id: str) -> AsyncIterator[dict[str, Any]]:
        """State changes of a model, without end."""
        stream = self._handle.options(stream=True).events.remote(model_id)
        async for event in stream:  # type: ignore[union-attr]  # `stream=True` makes it a generator
            yield event

    async def _call(self, method: str, deadline: float, *args: Any) -> Any:
        wait = _FIRST_WAIT
        for losses in itertools.count(1):
            try:
                return await getattr(self._handle, method).remote(*args)
            except RayTaskError as error:
                raise _cause(error) from error
            except LOST_REPLICA as error:
                left = deadline - time.monotonic()
                if left <= wait or losses == _MAX_LOSSES:
                    raise UnavailableError(
                        f"{losses} {self.name} replicas were lost while they worked on this "
                        f"request ({type(error).__name__})",
                        retry_after=2.0,
                    ) from error
                logger.warning("lost a %s replica (%s), retrying", self.name, type(error).__name__)
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)
        raise AssertionError("unreachable")


def _cause(error: RayTaskError) -> Exception:
    cause = error.cause
    if isinstance(cause, IroncliwError):
        return cause
    return error


class LocalVariant:
    """Models in this very process, for use without a cluster."""

    name = "in-process"

    def __init__(self, host: ModelHost) -> None:
        self._host = host

    async def embed(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        """Vectors of a batch."""
        return await self._host.embed(model_id, batch)

    async def load(self, model_id: str, pin: bool, ttl: float | None) -> None:
        """Load a model."""
        await self._host.load(model_id, pin=pin, ttl=ttl)

    async def unload(self, model_id: str, force: bool) -> None:
        """Free a model."""
        await self._host.unload(model_id, force=force)

    async def probe(self, model_id: str) -> float:
        """A real forward pass; returns its milliseconds."""
        return await self._host.probe(model_id)

    async def stats(self) -> dict[str, Any]:
        """Budget, bytes and models."""
        return self._host.stats()

    def events(self, model_id: str) -> AsyncIterator[dict[str, Any]]:
        """State changes of a model, without end."""
        return self._host.events(model_id)
