"""The models of one process: loaded on demand within a memory budget, one computing at a time.

Used by an engine replica of the cluster and, in process, by `TransformerManager`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import psutil

from ironcliw.catalog import Catalog, ModelCard
from ironcliw.errors import MemoryBudgetError
from ironcliw.setting_sections import ServeSettings
from ironcliw.sources import locate
from native_ops import presence
from serve.adapter_loading import adapter_bytes, load_adapter
from serve.cache import ModelCache
from serve.engines.protocol import ClassificationEngine, EmbeddingEngine, PackedTokens, Vectors
from serve.engines.registry import (
    CLASSIFICATION_TASKS,
    EMBEDDING_TASKS,
    GENERATION_TASKS,
    estimate_bytes,
    load_classification_engine,
    load_engine,
    require_classification,
    require_embedding,
    require_generation,
    require_served,
)
from serve.generation.protocol import (
    Decoder,
    Delta,
    GenerationJob,
    Generator,
    LoadedAdapter,
)
from serve.precision import precision_reason
from serve.residency import ModelResidency

Engine = EmbeddingEngine | ClassificationEngine | Generator | LoadedAdapter

logger = logging.getLogger(__name__)

# One short text or two, of a model that was seen to take only so long for them.
_INLINE_TOKENS = 48
_INLINE_SECONDS = 0.02


@dataclasses.dataclass(frozen=True, slots=True)
class Computed:
    """The vectors (or a classifier's logits) of one batch and who computed them.

    Attributes:
        vectors: float32 [B, D].
        seconds: Time that the device took.
        node: Name of the machine.
        device: Device of the engine.
        precision: Precision of the engine.
    """

    vectors: Vectors
    seconds: float
    node: str
    device: str
    precision: str


class ModelHost:
    """Loads, holds and runs models.

    Args:
        catalog: What may be loaded.
        settings: Budget, device and precision.
        cache_dir: Where fetched models are kept.
        node: Name of this machine, for answers.
        inline: Compute small batches in the event loop itself: right for a replica, whose loop has
            nothing else to do.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: ServeSettings,
        cache_dir: Path,
        node: str,
        *,
        inline: bool = False,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._cache_dir = cache_dir
        self.node = node
        self.budget_bytes = memory_budget(settings)
        cache = ModelCache(self.budget_bytes, ttl_seconds=settings.model_ttl_seconds)
        self.residency: ModelResidency[Engine] = ModelResidency(cache, self._load, self._estimate)
        self._inline = inline
        self._computing = 0
        self._small_seconds: dict[str, float] = {}
        # one batch or step at a time: engines use every core, two at once would only slow each
        # other
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._estimates: dict[str, int] = {}
        self._native = _compiled_kernels()
        self._precision_reasons: dict[str, str | None] = {}

    async def embed(self, model_id: str, batch: PackedTokens) -> Computed:
        """Vectors of a batch; loads the model first where it must.

        Raises:
            ModelNotFoundError, RequestError, ModelLoadError, MemoryBudgetError
        """
        for adapter in batch.adapters:
            self._catalog.adapters.learn(adapter)
        card = self._catalog[model_id]
        require_embedding(card)
        if card.adapter is not None:
            model_id, batch = card.adapter.base, batch.all_under(card.adapter)
        async with AsyncExitStack() as used:
            # the base first: it is what an adapter is loaded for
            engine = await used.enter_async_context(self.residency.use(model_id))
            embed = cast(EmbeddingEngine, engine).embed
            if batch.adapters:
                self._check_together(model_id, batch)
                loaded = [
                    await used.enter_async_context(self.residency.use(adapter.model_id))
                    for adapter in batch.adapters
                ]
                embed = partial(cast(Any, engine).embed_adapted, adapters=loaded)
            computed = await self._batch(model_id, engine, embed, batch)
            if len(batch.tokens) <= _INLINE_TOKENS:
                self._small_seconds[model_id] = computed.seconds
            return computed

    async def classify(self, model_id: str, batch: PackedTokens) -> Computed:
        """Logits [B, C] of a batch; loads the model first where it must.

        Raises:
            ModelNotFoundError, RequestError, ModelLoadError, MemoryBudgetError
        """
        require_classification(self._catalog[model_id])
        async with self.residency.use(model_id) as engine:
            classify = cast(ClassificationEngine, engine).classify
            return await self._batch(model_id, engine, classify, batch)

    async def class_labels(self, model_id: str) -> tuple[str, ...]:
        """Names of a classifier's classes, in the order of its logits; loads the model."""
        require_classification(self._catalog[model_id])
        async with self.residency.use(model_id) as engine:
            return cast(ClassificationEngine, engine).labels

    async def generate(self, model_id: str, job: GenerationJob) -> AsyncGenerator[Delta, None]:
        """The answer to a job as it grows; loads the model first where it must.

        Closing the iterator frees the job's slot.

        Raises:
            ModelNotFoundError, RequestError, ModelLoadError, MemoryBudgetError, OverloadedError
        """
        if job.adapter is not None:
            self._catalog.adapters.learn(job.adapter)
        card = self._catalog[model_id]
        require_generation(card)
        async with self._generator(card) as (engine, adapter):
            started, count = time.perf_counter(), 0
            if adapter is not None:
                job = dataclasses.replace(job, loaded=adapter)
            try:
                async with aclosing(engine.generate(job)) as deltas:
                    async for delta in deltas:
                        count += len(delta.tokens)
                        yield delta
            finally:  # readers close it at the answer's end, before the loop above ends
                milliseconds = (time.perf_counter() - started) * 1000
                self.residency.record(card.id, milliseconds, max(1, count))

    @asynccontextmanager
    async def _generator(
        self, card: ModelCard
    ) -> AsyncIterator[tuple[Generator, LoadedAdapter | None]]:
        """What answers for a model, and its adapter: both stay in memory until the block ends."""
        if card.adapter is None:
            async with self.residency.use(card.id) as engine:
                yield cast(Generator, engine), None
            return
        # the base first: it is what an adapter is loaded for
        async with self.residency.use(card.adapter.base) as engine:
            async with self.residency.use(card.id) as adapter:
                yield cast(Generator, engine), adapter

    async def load(self, model_id: str, *, pin: bool = False, ttl: float | None = None) -> None:
        """Load a model and keep it until it is evicted or unloaded."""
        card = self._catalog[model_id]
        if card.source is None:
            locate(card, self._cache_dir)  # says which setting is missing
        require_served(card)
        if card.adapter is None:
            await self.residency.load(card.id, pin=pin, ttl=ttl)
            return
        if card.adapter.kind == "head":
            # the head itself is read where requests are: here there are only vectors to make
            await self.residency.load(card.adapter.base, pin=pin, ttl=ttl)
            return
        if card.task not in EMBEDDING_TASKS:
            require_generation(card)
        async with self.residency.use(card.adapter.base):
            await self.residency.load(card.id, pin=pin, ttl=ttl)

    async def unload(self, model_id: str, *, force: bool = False) -> None:
        """Free a model, and its adapters with it; waits until requests that use it are done."""
        card = self._catalog[model_id]
        if card.adapter is None:
            # they were checked against these weights: it may come back with others
            under = [one for one in self.residency.engines if one.startswith(f"{card.id}:")]
            await asyncio.gather(*(self.residency.unload(one, force=True) for one in under))
        await self.residency.unload(card.id, force=force)

    async def probe(self, model_id: str) -> float:
        """A real forward pass of the shortest input; returns its milliseconds."""
        started = time.perf_counter()
        task = self._catalog[model_id].task
        tokens = PackedTokens.pack([_probe_tokens()])
        if task in CLASSIFICATION_TASKS:
            await self.classify(model_id, tokens)
        elif task in GENERATION_TASKS:
            async for _ in self.generate(model_id, GenerationJob(_probe_tokens(), 1)):
                pass
        else:
            await self.embed(model_id, tokens)
        return (time.perf_counter() - started) * 1000

    async def events(self, model_id: str) -> AsyncIterator[dict[str, Any]]:
        """State changes of a model, each as `{model, state, fraction, error}`, without end."""
        with self.residency.events() as events:
            async for event in events:
                if event.model == model_id:
                    yield dataclasses.asdict(event)

    def stats(self) -> dict[str, Any]:
        """Budget, bytes held, and a row a model."""
        models = [dataclasses.asdict(row) for row in self.residency.stats()]
        generators = self._generators()
        for row in models:
            loaded = row["precision"] is not None
            row["precision_reason"] = self._precision_reasons.get(row["id"]) if loaded else None
            if row["id"] in generators:
                row["kv_bytes"] = generators[row["id"]].kv_bytes
            if row["state"] in {"ready", "in_use"} and row["id"] in generators:
                row["generation"] = dataclasses.asdict(generators[row["id"]].stats())
        return {
            "node": self.node,
            "budget_bytes": self.budget_bytes,
            "resident_bytes": sum(row["bytes"] for row in models),
            "process_bytes": psutil.Process().memory_info().rss,
            "native": self._native,
            "models": models,
        }

    async def close(self) -> None:
        """Free every model."""
        await self.residency.close()
        self._compute.shutdown(wait=True)

    def _check_together(self, base: str, batch: PackedTokens) -> None:
        """Refuse at once what would wait in vain for adapters that this very batch holds."""
        if len(batch.adapters) < 2:
            return
        need = self._estimate(base) + sum(self._estimate(a.model_id) for a in batch.adapters)
        if need > self.budget_bytes:
            raise MemoryBudgetError(
                f"{base} and the {len(batch.adapters)} adapters of a batch need {need} bytes, and "
                f"the memory budget is {self.budget_bytes}; raise serve.memory_bytes, or ask for "
                "fewer of them at a time"
            )

    async def _batch(
        self,
        model_id: str,
        engine: Engine,
        compute: Callable[[PackedTokens], Vectors],
        batch: PackedTokens,
    ) -> Computed:
        started = time.perf_counter()
        vectors = await self._run(model_id, compute, batch)
        seconds = time.perf_counter() - started
        self.residency.record(model_id, seconds * 1000, len(batch.lengths))
        return Computed(vectors, seconds, self.node, engine.device, engine.precision)

    async def _run(
        self, model_id: str, compute: Callable[[PackedTokens], Vectors], batch: PackedTokens
    ) -> Vectors:
        fast = self._inline and self._small_seconds.get(model_id, math.inf) < _INLINE_SECONDS
        if fast and len(batch.tokens) <= _INLINE_TOKENS and not self._busy():
            # two hand-overs between threads cost more than the loop's few milliseconds of silence
            return compute(batch)
        self._computing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._compute, compute, batch)
        finally:
            self._computing -= 1

    def _busy(self) -> bool:
        """Whether the compute thread has something to do."""
        return self._computing > 0 or any(
            generator.stats().running for generator in self._generators().values()
        )

    def _generators(self) -> dict[str, Generator]:
        """The loaded models that generate."""
        loaded = self.residency.engines.items()
        return {
            model_id: cast(Generator, engine)
            for model_id, engine in loaded
            if hasattr(engine, "generate")
        }

    def _load(self, model_id: str) -> Engine:
        started = time.perf_counter()
        card = self._catalog[model_id]
        progress = partial(self.residency.report_progress, model_id)
        arguments = (card, self._settings, self._cache_dir, progress)
        engine: Engine
        if card.adapter is not None:
            base = self.residency.engines[card.adapter.base]  # in use while this is loaded
            return load_adapter(card, base, self._cache_dir)
        if card.task in GENERATION_TASKS:
            engine = self._load_generator(*arguments)
        elif card.task in CLASSIFICATION_TASKS:
            engine = load_classification_engine(*arguments)
        else:
            engine = load_engine(*arguments)
        self._native = _compiled_kernels()
        seconds = time.perf_counter() - started
        logger.info("loaded %s in %.2f s on %s", model_id, seconds, engine.device)
        self._note_precision(card, engine)
        return engine

    def _note_precision(self, card: ModelCard, engine: Engine) -> None:
        """Keep why it is not the one that is set, and warn: again only where the reason changes."""
        reason = precision_reason(
            self._settings.precision, engine.precision, task=card.task, device=engine.device
        )
        if reason is not None and reason != self._precision_reasons.get(card.id):
            logger.warning("model %s: %s", card.id, reason)
        self._precision_reasons[card.id] = reason

    def _load_generator(self, *arguments: Any) -> Generator:
        # imported here: an embedding service needs none of it
        from serve.engines.generation_engines import load_generation
        from serve.generation.runner import GenerationRunner
        from serve.generation.scheduler import GenerationLimits

        loaded = load_generation(*arguments)
        if hasattr(loaded, "forward"):
            limits = GenerationLimits(max_waiting=self._settings.max_waiting_jobs)
            return GenerationRunner(cast(Decoder, loaded), self._compute, limits)
        return loaded

    def _estimate(self, model_id: str) -> int:
        # asked at every use, so a model's files are looked at once
        if model_id not in self._estimates:
            card = self._catalog[model_id]
            self._estimates[model_id] = (
                adapter_bytes(card)
                if card.adapter is not None
                else estimate_bytes(card, self._cache_dir, self._settings)
            )
        return self._estimates[model_id]


def use_cpu_capability(name: str | None) -> None:
    """Have this process compute with a lower level of the compiled kernels than its best.

    Args:
        name: Setting `cpu_capability`; None changes nothing, and imports nothing.

    Raises:
        SettingsError: this machine has no such level.
    """
    if name is not None:
        from native_ops import binary

        binary.choose_level(name)


def _compiled_kernels() -> str:
    """Level of the compiled kernels, or why there are none; without torch, what can be told."""
    if "torch" in sys.modules:
        from native_ops import binary

        return str(binary.state())
    if presence.installed():
        return "installed; the level is chosen when the first model is loaded"
    return presence.slow_because(presence.ABSENT)


def memory_budget(settings: ServeSettings) -> int:
    """Bytes that loaded models may hold on this machine."""
    if settings.memory_bytes is not None:
        return settings.memory_bytes
    return int(psutil.virtual_memory().total * settings.memory_fraction)


def _probe_tokens() -> Any:
    import numpy as np

    # id 0 exists in every vocabulary
    return np.zeros(2, dtype=np.int32)
