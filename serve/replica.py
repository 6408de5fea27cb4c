"""The engine replica: a Serve deployment around `ModelHost`."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

from cluster.config import HEAD_INSTANCE_ID
from cluster.head import project_code
from ironcliw import logs
from ironcliw.catalog import Catalog
from ironcliw.errors import IroncliwError
from ironcliw.setting_sections import ServeSettings
from ironcliw.settings import Settings, process_environment
from serve.engines.protocol import PackedTokens
from serve.generation.protocol import Delta, GenerationJob
from serve.host import Computed, ModelHost, use_cpu_capability
from serve.leaving import BREAK_SECONDS, Leaving
from serve.spot_scaling import USED

logger = logging.getLogger(__name__)

# Serve asks more often; a request shorter than the time between two questions shall be seen.
_RECENT_SECONDS = 10.0


class EngineReplica:
    """Holds models and computes batches. All its methods are idempotent.

    Args:
        settings: As given to `up`; replicas do not read the environment.
        worker_code: Of a replica on the head: address of the code that replicas in the cloud run,
            which it keeps there for them.
    """

    async def __init__(self, settings: Settings, worker_code: str | None = None) -> None:  # type: ignore[misc]
        logs.configure(settings.log)
        use_cpu_capability(settings.cpu_capability)
        self._host = ModelHost(
            Catalog.of(settings),
            _with_threads(settings.serve),
            _model_folder(settings),
            machine_name(),
            inline=True,
        )
        self._leaving = Leaving(_handover_folder())
        self._open, self._used_at = 0, -_RECENT_SECONDS
        # not awaited: the replica answers, and says what it is loading, while it loads
        self._tasks = [asyncio.create_task(self._pin(settings.serve.pinned_models))]
        if worker_code is not None:
            self._tasks.append(asyncio.create_task(project_code.keep(worker_code)))

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve's autoscaler: whether it is used. Questions about its state are no use."""
        recent = self._open > 0 or time.monotonic() - self._used_at < _RECENT_SECONDS
        return {USED: float(recent)}

    @contextmanager
    def _using(self) -> Iterator[None]:
        self._leaving.check()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            self._used_at = time.monotonic()

    async def _pin(self, model_ids: Sequence[str]) -> None:
        for model_id in model_ids:
            try:
                await self._host.load(model_id, pin=True)
            except IroncliwError as error:
                # `/readyz` and `ironcliw status` show it too
                logger.error("pinned model %s was not loaded: %s", model_id, error)

    async def embed(self, model_id: str, batch: PackedTokens) -> Computed:
        """Vectors of a batch."""
        with self._using():
            return await self._host.embed(model_id, batch)

    async def classify(self, model_id: str, batch: PackedTokens) -> Computed:
        """Logits of a batch."""
        with self._using():
            return await self._host.classify(model_id, batch)

    async def class_labels(self, model_id: str) -> tuple[str, ...]:
        """Names of a classifier's classes."""
        with self._using():
            return await self._host.class_labels(model_id)

    async def generate(self, model_id: str, job: GenerationJob) -> AsyncGenerator[Delta, None]:
        """The answer to a job as it grows; Serve closes the iterator when the caller leaves."""
        with self._using():
            async with aclosing(self._host.generate(model_id, job)) as deltas:
                async for delta in deltas:
                    self._leaving.check(BREAK_SECONDS)
                    yield delta

    async def load(self, model_id: str, pin: bool, ttl: float | None) -> None:
        """Load a model."""
        with self._using():
            await self._host.load(model_id, pin=pin, ttl=ttl)

    async def unload(self, model_id: str, force: bool) -> None:
        """Free a model."""
        await self._host.unload(model_id, force=force)

    async def probe(self, model_id: str) -> float:
        """A real forward pass; returns its milliseconds."""
        return await self._host.probe(model_id)

    async def stats(self) -> dict[str, Any]:
        """Budget, bytes and models.

        Raises:
            ReplicaLostError: this replica's machine is taken back.
        """
        self._leaving.check()
        return self._host.stats()

    async def events(self, model_id: str) -> AsyncIterator[dict[str, Any]]:
        """State changes of a model, without end."""
        async for event in self._host.events(model_id):
            yield event


def _model_folder(settings: Settings) -> Path:
    return settings.state_dir.expanduser() / "models"


def _with_threads(settings: ServeSettings) -> ServeSettings:
    """Every core for compute, where nothing else is set.

    Ray gives an actor without CPUs of its own OMP_NUM_THREADS=1, and PyTorch would take that.
    """
    if settings.threads is not None:
        return settings
    return settings.model_copy(update={"threads": usable_cores()})


def machine_name() -> str:
    """Of this machine, for answers: of a worker in the cloud, the name by which the cloud knows it.

    Its startup script gives it to Ray; the head's own id is no name of a machine.
    """
    instance = process_environment().get("RAY_CLOUD_INSTANCE_ID", HEAD_INSTANCE_ID)
    return socket.gethostname() if instance == HEAD_INSTANCE_ID else instance


def _handover_folder() -> Path | None:
    """Where the agent of a machine in the cloud announces its end."""
    folder = process_environment().get("IRONCLIW_HANDOVER_DIR")
    return Path(folder) if folder else None


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
