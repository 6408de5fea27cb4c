"""The engine replica of a machine in the cloud: it never leaves the head in doubt.

The head gives up a replica that says nothing for three seconds. So this one refuses at once what it
must load a model for, loads it meanwhile, and sends signs of life while a text waits for its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ironcliw.settings import Settings
from serve.engines.protocol import PackedTokens
from serve.generation.protocol import Delta, GenerationJob
from serve.heartbeat import with_heartbeat
from serve.host import Computed, ModelHost
from serve.replica import EngineReplica
from serve.variants import ModelLoadingError

# A load that takes no longer is waited for.
_PATIENCE = 0.5
_RETRY_SECONDS = 1.0


class LoadGate:
    """Lets requests through to models that are loaded, and loads the others.

    Args:
        host: Holds the models.
        patience: Seconds that a request waits for a load.
    """

    def __init__(self, host: ModelHost, patience: float = _PATIENCE) -> None:
        self._host = host
        self._patience = patience
        self._loads: dict[str, asyncio.Task[None]] = {}

    async def require(self, model_id: str) -> None:
        """Return once the model is loaded.

        Raises:
            ModelLoadingError: that takes longer; ask again.
            IroncliwError: it cannot be loaded.
        """
        if model_id in self._host.residency.engines:
            return
        load = self._loads.get(model_id)
        if load is None:
            load = self._loads[model_id] = asyncio.create_task(self._host.load(model_id))
            load.add_done_callback(_take_error)  # maybe nobody asks again
        await asyncio.wait({load}, timeout=self._patience)
        if not load.done():
            raise ModelLoadingError(
                f"{model_id} is being loaded on this replica; ask again",
                retry_after=_RETRY_SECONDS,
            )
        self._loads.pop(model_id, None)
        load.result()


class SpotReplica(EngineReplica):
    """An `EngineReplica` that refuses what it would have to load a model for.

    Args:
        settings: For a machine in the cloud; they pin nothing.
    """

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]
        await EngineReplica.__init__(self, settings)
        self._gate = LoadGate(self._host)

    async def embed(self, model_id: str, batch: PackedTokens) -> Computed:
        """Vectors of a batch."""
        await self._require(model_id)
        return await super().embed(model_id, batch)

    async def classify(self, model_id: str, batch: PackedTokens) -> Computed:
        """Logits of a batch."""
        await self._require(model_id)
        return await super().classify(model_id, batch)

    async def class_labels(self, model_id: str) -> tuple[str, ...]:
        """Names of a classifier's classes."""
        await self._require(model_id)
        return await super().class_labels(model_id)

    async def generate(self, model_id: str, job: GenerationJob) -> AsyncGenerator[Delta, None]:
        """The answer to a job as it grows, with signs of life."""
        await self._require(model_id)
        deltas = with_heartbeat(super().generate(model_id, job), self._host.node)
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta

    async def _require(self, model_id: str) -> None:
        with self._using():  # a replica that loads for somebody is no idle one
            await self._gate.require(model_id)


def _take_error(load: asyncio.Task[None]) -> None:
    if not load.cancelled():
        load.exception()
