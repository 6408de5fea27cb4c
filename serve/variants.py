"""Where a model can run: one variant is one group of engine replicas.

`local` is on the head, `spot` in the cloud; `serve.failover_variant` goes before both. Who asks a
variant for vectors never knows whether a Ray actor or this very process computes them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol

from ironcliw.errors import UnavailableError
from serve.engines.protocol import PackedTokens
from serve.generation.protocol import Delta, GenerationJob
from serve.host import Computed, ModelHost


class ReplicaLostError(UnavailableError):
    """A replica died with a batch, of which nothing was sent: it may run again elsewhere."""

    default_code = "replica_lost"


class ReplicaSilentError(UnavailableError):
    """No replica said anything for as long as it was given."""

    default_code = "replica_silent"


class ModelLoadingError(UnavailableError):
    """A replica loads the model and does not make its caller wait for it."""

    default_code = "model_loading"


class NotSentError(UnavailableError):
    """The replicas no longer took requests when its turn came."""

    default_code = "not_sent"


class GeneratingVariant(Protocol):
    """What an answer in text needs of a variant."""

    @property
    def name(self) -> str:
        """`local` or `spot`."""
        ...

    def generate(
        self, model_id: str, job: GenerationJob, deadline: float
    ) -> AsyncGenerator[Delta, None]:
        """The answer to a job as it grows; closing the generator frees its slot.

        Raises:
            ReplicaLostError: the replica died; what was not delivered may be computed elsewhere.
        """
        ...

    async def stats(self) -> dict[str, Any]:
        """Budget, bytes and models."""
        ...


class Variant(GeneratingVariant, Protocol):
    """One group of replicas that can run models."""

    async def embed(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        """Vectors of a batch; deadline in seconds of `time.monotonic`."""
        ...

    async def classify(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        """Logits of a batch, as `embed`."""
        ...

    async def class_labels(self, model_id: str, deadline: float) -> tuple[str, ...]:
        """Names of a classifier's classes, in the order of its logits."""
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

    async def classify(self, model_id: str, batch: PackedTokens, deadline: float) -> Computed:
        """Logits of a batch."""
        return await self._host.classify(model_id, batch)

    async def class_labels(self, model_id: str, deadline: float) -> tuple[str, ...]:
        """Names of a classifier's classes."""
        return await self._host.class_labels(model_id)

    def generate(
        self, model_id: str, job: GenerationJob, deadline: float
    ) -> AsyncGenerator[Delta, None]:
        """The answer to a job as it grows."""
        return self._host.generate(model_id, job)

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
