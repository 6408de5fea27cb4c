"""The engine replica: a Serve deployment around `ModelHost`."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from ironcliw import logs
from ironcliw.catalog import Catalog
from ironcliw.errors import IroncliwError
from ironcliw.setting_sections import ServeSettings
from ironcliw.settings import Settings
from serve.engines.protocol import PackedTokens
from serve.generation.protocol import Delta, GenerationJob
from serve.host import Computed, ModelHost, use_cpu_capability

logger = logging.getLogger(__name__)


class EngineReplica:
    """Holds models and computes batches. All its methods are idempotent.

    Args:
        settings: As given to `up`; replicas do not read the environment.
    """

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]
        logs.configure(settings.log)
        use_cpu_capability(settings.cpu_capability)
        self._host = ModelHost(
            Catalog(settings.models),
            _with_threads(settings.serve),
            Path(settings.state_dir) / "models",
            socket.gethostname(),
            inline=True,
        )
        # not awaited: the replica answers, and says what it is loading, while it loads
        self._pinning = asyncio.create_task(self._pin(settings.serve.pinned_models))

    async def _pin(self, model_ids: Sequence[str]) -> None:
        for model_id in model_ids:
            try:
                await self._host.load(model_id, pin=True)
            except IroncliwError as error:
                # `/readyz` and `ironcliw status` show it too
                logger.error("pinned model %s was not loaded: %s", model_id, error)

    async def embed(self, model_id: str, batch: PackedTokens) -> Computed:
        """Vectors of a batch."""
        return await self._host.embed(model_id, batch)

    async def classify(self, model_id: str, batch: PackedTokens) -> Computed:
        """Logits of a batch."""
        return await self._host.classify(model_id, batch)

    async def class_labels(self, model_id: str) -> tuple[str, ...]:
        """Names of a classifier's classes."""
        return await self._host.class_labels(model_id)

    async def generate(self, model_id: str, job: GenerationJob) -> AsyncIterator[Delta]:
        """The answer to a job as it grows; Serve closes the iterator when the caller leaves."""
        async with aclosing(self._host.generate(model_id, job)) as deltas:
            async for delta in deltas:
                yield delta

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

    async def events(self, model_id: str) -> AsyncIterator[dict[str, Any]]:
        """State changes of a model, without end."""
        async for event in self._host.events(model_id):
            yield event


def _with_threads(settings: ServeSettings) -> ServeSettings:
    """Every core for compute, where nothing else is set.

    Ray gives an actor without CPUs of its own OMP_NUM_THREADS=1, and PyTorch would take that.
    """
    if settings.threads is not None:
        return settings
    return settings.model_copy(update={"threads": usable_cores()})


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
