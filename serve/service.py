"""What the routes work on: the parts of one ingress, put together.

`Service` knows nothing of Ray Serve, so that a test can run it around a `LocalVariant`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ironcliw.catalog import Catalog, ModelCard
from ironcliw.errors import IroncliwError, StoreError, UnavailableError
from ironcliw.settings import Settings
from ironcliw.store import Store
from serve.access import Gatekeeper
from serve.alias_service import AliasService
from serve.aliases import ModelAliases
from serve.batching import BatchObserver, BatchQueue
from serve.decisions.cascade_checks import CascadeObserver
from serve.decisions.service import DecisionService
from serve.embeddings import EmbeddingService
from serve.failover_variant import FailoverVariant
from serve.generation.service import GenerationService
from serve.keyring import KeyRing
from serve.keys import ApiKeys
from serve.residency import ModelStats
from serve.variants import Variant
from serve.workflow_routes import Workflows

logger = logging.getLogger(__name__)

_STATS_SECONDS = 10.0
_FLUSH_SECONDS = 60.0
_FRESH_SECONDS = 0.5
_KEYS_SECONDS = 2.0
_PROBE_FRESH_SECONDS = 1.0


class ServiceMetrics(CascadeObserver, Protocol):
    """Where the service's figures go; `serve.metrics` has the one for Ray."""

    def for_model(self, model: str) -> BatchObserver:
        """The observer of one model's batches."""
        ...

    def on_generation(
        self, model: str, prompt_tokens: int, tokens: int, first_seconds: float, seconds: float
    ) -> None:
        """Observe one request whose text was generated."""
        ...

    def on_stats(
        self, waiting: dict[str, int], hits: int, misses: int, models: list[dict[str, Any]]
    ) -> None:
        """Set the gauges."""
        ...


NodeFacts = Callable[[], list[dict[str, Any]]]


class Service:
    """The state behind the routes.

    Args:
        settings: As given to `up`.
        variant: Where models run; a `FailoverVariant` where there is a cloud.
        nodes: Facts about the cluster's nodes; blocking.
        relay: Body of the metrics agent's page.
        metrics: Where figures go.
        workflows: The way to the orchestrator.
    """

    def __init__(
        self,
        settings: Settings,
        variant: Variant,
        nodes: NodeFacts = list,
        relay: Callable[[], Awaitable[bytes]] | None = None,
        metrics: ServiceMetrics | None = None,
        workflows: Workflows | None = None,
    ) -> None:
        self.settings = settings
        self.workflows = workflows
        self.catalog = Catalog.of(settings)
        self.variant = variant
        self.relay = relay
        self.started = int(time.time())
        self._metrics = metrics
        self._store = Store(settings.store_url)
        self._store.migrate()
        self.aliases = AliasService(ModelAliases(self._store), self.catalog)
        cache_dir = Path(settings.state_dir) / "models"
        observer = metrics.for_model if metrics else None
        self.embeddings = EmbeddingService(
            self.catalog, settings.serve, variant, cache_dir, observer
        )
        self.generation = GenerationService(
            self.catalog,
            settings.serve,
            variant,
            cache_dir,
            metrics.on_generation if metrics else None,
        )
        self.decisions = DecisionService(
            self.catalog,
            settings.serve,
            variant,
            cache_dir,
            self.embeddings,
            self.generation,
            observer,
            self.aliases.applied,
            metrics,
        )
        # refreshed by `run`, a little more often than it would by itself
        self.keys = KeyRing(ApiKeys(self._store), refresh_seconds=_KEYS_SECONDS * 1.5)
        self.keys.refresh()
        self.gatekeeper = Gatekeeper(settings.serve, self.keys)
        self._nodes = nodes
        self._stats: dict[str, Any] = {"models": []}
        self._stats_at = 0.0
        self._probing: asyncio.Task[dict[str, float]] | None = None
        self._probed_at = 0.0
        self._loads: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keep keys and gauges fresh, until cancelled."""
        exported = flushed = 0.0
        while True:
            now = time.monotonic()
            try:
                await asyncio.to_thread(self.keys.refresh)
                await asyncio.to_thread(self.aliases.refresh)
                if now - flushed >= _FLUSH_SECONDS:
                    flushed = now
                    await asyncio.to_thread(self.keys.flush)
            except (UnavailableError, StoreError) as error:
                logger.warning("API keys and aliases: %s", error)
            if now - exported >= _STATS_SECONDS:
                exported = now
                await self._export()  # ends within two seconds also when no replica answers
            await asyncio.sleep(_KEYS_SECONDS)

    async def stats(self) -> dict[str, Any]:
        """What the replicas report, at most half a second old.

        Raises:
            UnavailableError: no replica answers.
        """
        if time.monotonic() - self._stats_at > _FRESH_SECONDS:
            self._stats = await self.variant.stats()
            self._stats_at = time.monotonic()
        return self._stats

    async def models(self) -> list[dict[str, Any]]:
        """A row a model of the catalogue: `ironcliw.schemas.Model`."""
        try:
            known = (await self.stats())["models"]
        except UnavailableError as error:
            logger.warning("models are listed without their state: %s", error)
            known = []
        rows = {row["id"]: row for row in self._with_errors(known)}
        cards = dict(self.catalog)
        # an older version of an adapter is listed while it is loaded
        cards |= {
            model: self.catalog[model] for model in rows.keys() - cards if model in self.catalog
        }
        found = {model: self._row(card, rows.get(model, {})) for model, card in cards.items()}
        return [*found.values(), *self.aliases.rows(found)]

    async def model(self, model_id: str) -> dict[str, Any]:
        """The row of one model, or of an alias.

        Raises:
            ModelNotFoundError: there is none.
        """
        wanted = self.aliases.named(model_id) or self.catalog[model_id].id
        rows = {row["id"]: row for row in await self.models()}
        # an older version of an adapter that was not asked for yet is in no list
        return rows.get(wanted) or self._row(self.catalog[wanted], {})

    async def ready(self) -> dict[str, float]:
        """Milliseconds of a real forward pass of each pinned model, at most a second old.

        However many ask, one probe runs at a time. A pinned model that was unloaded by force stays
        so: it is not probed, and `status` says that it is missing.

        Raises:
            IroncliwError: one of them cannot answer.
        """
        fresh = time.monotonic() - self._probed_at < _PROBE_FRESH_SECONDS
        if self._probing is None or (self._probing.done() and not fresh):
            self._probing = asyncio.create_task(self._probe())
        return await asyncio.shield(self._probing)

    async def _probe(self) -> dict[str, float]:
        try:
            missing = set(self._unloaded((await self.variant.stats())["models"]))
            return {
                model: await self.variant.probe(model)
                for model in self.settings.serve.pinned_models
                if model not in missing
            }
        finally:
            self._probed_at = time.monotonic()

    def _unloaded(self, models: list[dict[str, Any]]) -> list[str]:
        """Pinned models that were loaded once and are not now."""
        pinned = self.settings.serve.pinned_models
        return [
            row["id"]
            for row in models
            if row["id"] in pinned and row["state"] == "absent" and row["loads"]
        ]

    async def load(self, model_id: str, pin: bool, ttl: float | None) -> None:
        """Load a model."""
        self._forget(model_id)
        await self.variant.load(model_id, pin, ttl)
        self._stats_at = 0.0

    async def unload(self, model_id: str, force: bool) -> None:
        """Free a model."""
        await self.variant.unload(model_id, force)
        self._forget(model_id)
        self._stats_at = 0.0

    async def load_events(
        self, model_id: str, pin: bool, ttl: float | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Load a model; yields its state changes and, last, `ready` or an error body."""
        loading = asyncio.create_task(self.load(model_id, pin, ttl))
        # a client that leaves does not stop the load; somebody has to take its error all the same
        self._loads.add(loading)
        loading.add_done_callback(self._loads.discard)
        loading.add_done_callback(_take_error)
        events = self.variant.events(model_id)
        following: asyncio.Future[dict[str, Any]] | None = asyncio.ensure_future(anext(events))
        try:
            while not loading.done():
                waiting: set[asyncio.Future[Any]] = {loading}
                if following is not None:
                    waiting.add(following)
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if following is not None and following.done() and not loading.done():
                    if following.exception() is not None:
                        following = None  # the replica with the events died; the load goes on
                        continue
                    yield following.result()
                    following = asyncio.ensure_future(anext(events))
            loading.result()
            yield {"model": model_id, "state": "ready", "fraction": 1.0, "error": None}
        except IroncliwError as error:
            yield error.body()
        finally:
            if following is not None:
                following.cancel()

    async def status(self) -> dict[str, Any]:
        """Nodes, models, memory, queues, and what is degraded and why."""
        # before the replica is asked, which may be busy with what waits here
        queues = {
            model: {
                "waiting_items": queue.waiting_items,
                "waiting_tokens": queue.waiting_tokens,
                "batches_in_flight": queue.in_flight,
                "estimated_wait_seconds": queue.estimated_wait_seconds,
            }
            for model, lane in self._lanes().items()
            for queue in [lane.stats()]
        }
        degraded = [] if self.keys.degraded is None else [f"API keys: {self.keys.degraded}"]
        try:
            stats = await self.stats()
        except UnavailableError as error:
            stats = {"models": []}
            degraded.append(f"variant {self.variant.name}: {error}")
        rows = self._with_errors(stats["models"])
        cloud = await self._cloud()
        degraded += [f"variant {row['name']}: {row['reason']}" for row in cloud if row["reason"]]
        for field in ("error", "precision_reason"):
            degraded += [f"model {row['id']}: {row[field]}" for row in rows if row.get(field)]
        degraded += [f"pinned model {model} was unloaded" for model in self._unloaded(rows)]
        actors = None if self.workflows is None else await self.workflows.status()
        if actors is not None and actors["state"] != "leading":
            degraded.append(_why_not_leading(actors))
        cache = self.embeddings.content_cache
        return {
            "nodes": await asyncio.to_thread(self._nodes),
            "variants": [self._variant_row(stats), *cloud],
            "models": rows,
            "queues": queues,
            "content_cache": {
                "bytes": cache.bytes,
                "hits": cache.hits,
                "misses": cache.misses,
            },
            "actors": actors,
            "uptime_seconds": int(time.time()) - self.started,
            "degraded": degraded,
        }

    def admit(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Refuse strangers before their body is read; health and documents are for everybody.

        Raises:
            AuthenticationError, PermissionDeniedError: see `Gatekeeper`.
        """
        if path.startswith("/v1/"):
            self.gatekeeper.authenticate(headers, None)

    async def close(self) -> None:
        """Stop."""
        if isinstance(self.variant, FailoverVariant):
            await self.variant.router.close()
        await self.decisions.close()
        await self.generation.close()
        await self.embeddings.close()
        self._store.close()

    def _with_errors(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The replica's rows, and what this process could not read of a model."""
        services = (self.embeddings, self.generation, self.decisions)
        errors = {model: text for one in services for model, text in one.errors().items()}
        known = {row["id"]: {**row, "error": row["error"] or errors.get(row["id"])} for row in rows}
        for model in errors.keys() - known.keys():
            known[model] = {**dataclasses.asdict(ModelStats.absent(model)), "error": errors[model]}
        return [known[model] for model in sorted(known)]

    def _lanes(self) -> dict[str, BatchQueue]:
        """The batch queue of each model that was asked for."""
        return {**self.embeddings.lanes(), **self.decisions.lanes()}

    def _forget(self, model_id: str) -> None:
        """Drop what is known of a model's files: it may come back with others."""
        self.embeddings.forget(model_id)
        self.generation.forget(model_id)
        self.decisions.forget(model_id)

    async def _export(self) -> None:
        if self._metrics is None:
            return
        waiting = {model: queue.stats().waiting_tokens for model, queue in self._lanes().items()}
        try:
            models = (await self.stats())["models"]
        except IroncliwError as error:
            logger.warning("no statistics: %s", error)
            return
        cache = self.embeddings.content_cache
        self._metrics.on_stats(waiting, cache.hits, cache.misses, models)

    async def _cloud(self) -> list[dict[str, Any]]:
        """The row of the variant in the cloud, where there is one."""
        if isinstance(self.variant, FailoverVariant):
            return [await self.variant.router.status()]
        return []

    def _variant_row(self, stats: dict[str, Any]) -> dict[str, Any]:
        figures = {name: value for name, value in stats.items() if name != "models"}
        return {"name": self.variant.name, **figures}

    def _row(self, card: ModelCard, row: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": card.id,
            "object": "model",
            "created": self.started,
            "owned_by": card.owner,
            "parent": card.adapter.base if card.adapter is not None else None,
            "task": card.task,
            "bytes": card.bytes,
            "dimensions": card.dimensions,
            "context": card.context,
            "licence": card.licence,
            "available": card.source is not None,
            "state": row.get("state", "absent"),
            "device": row.get("device"),
            "precision": row.get("precision"),
            "precision_reason": row.get("precision_reason"),
            "resident_bytes": row.get("bytes", 0),
            "kv_bytes": row.get("kv_bytes", 0),
            "pinned": row.get("pinned", False),
            "loads": row.get("loads", 0),
            "uses": row.get("uses", 0),
            "average_ms": row.get("average_ms"),
            "error": row.get("error"),
        }


def _why_not_leading(actors: Mapping[str, Any]) -> str:
    told = {
        "away": "they do not answer",
        "starting": "they are starting",
        "stopping": "the head is being stopped",
        "waiting": f"{actors['leader'] or 'another process'} leads those of this store",
    }
    return f"workflows and agents: {told.get(actors['state'], actors['error'])}"


def _take_error(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.info("a load ended with: %s", error)
