"""Where a model can run: one variant is one group of engine replicas.

Today there is `local`, on the head. The router asks a variant for vectors and never knows whether
a Ray actor or this very process computes them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from ironcliw.errors import UnavailableError
from serve.engines.protocol import PackedTokens
from serve.host import Computed, ModelHost


class ReplicaLostError(UnavailableError):
    """A replica died with a batch, of which nothing was sent: it may run again elsewhere."""

    default_code = "replica_lost"


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
