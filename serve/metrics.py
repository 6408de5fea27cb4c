"""What the service exports through Ray's metrics agent; `/metrics` relays the agent's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from serve.failover_terms import Phase

_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
_TOKENS = [16.0, 64, 256, 512, 1024, 2048, 4096, 8192]
# the fields of `serve.generation.protocol.GeneratorStats`
_GENERATION = {
    "running": "Answers being generated.",
    "waiting": "Answers waiting for a slot.",
    "kv_tokens": "Positions held in the KV cache.",
    "kv_capacity": "Positions that the KV cache can hold.",
    "prompt_tokens": "Prompt tokens read since the model was loaded.",
    "generated_tokens": "Tokens generated since the model was loaded.",
    "preemptions": "Answers that had to make room and were read again.",
    "steps": "Forward passes since the model was loaded.",
    "step_seconds": "Time spent in them.",
}


class IngressMetrics:
    """Counters and histograms of the ingress."""

    def __init__(self) -> None:
        self._requests = Counter(
            "ironcliw_http_requests_total", "Requests answered.", ("method", "route", "status")
        )
        self._latency = Histogram(
            "ironcliw_http_request_seconds", "Time to the whole answer.", _SECONDS, ("route",)
        )
        self._tokens = Counter("ironcliw_embedding_tokens_total", "Tokens computed.", ("model",))
        self._items = Counter("ironcliw_embedding_texts_total", "Texts computed.", ("model",))
        self._batch = Histogram("ironcliw_batch_tokens", "Tokens in a batch.", _TOKENS, ("model",))
        self._queue = Histogram(
            "ironcliw_queue_seconds", "Wait before the first batch.", _SECONDS, ("model",)
        )
        self._compute = Histogram(
            "ironcliw_batch_seconds", "From sending a batch to its answer.", _SECONDS, ("model",)
        )
        self._waiting = Gauge("ironcliw_queue_tokens", "Tokens waiting.", ("model",))
        self._cache_hits = Counter("ironcliw_content_cache_hits_total", "Vectors found by content.")
        self._cache_misses = Counter(
            "ironcliw_content_cache_misses_total", "Vectors looked for and not found by content."
        )
        self._resident = Gauge(
            "ironcliw_model_resident_bytes", "Bytes of a loaded model.", ("model",)
        )
        self._loaded = Gauge(
            "ironcliw_model_loaded", "1 on the device where a model is loaded.", ("model", "device")
        )
        self._loads = Gauge("ironcliw_model_loads", "Times a model was loaded.", ("model",))
        self._uses = Gauge("ironcliw_model_uses", "Times a model was used.", ("model",))
        self._hits = self._misses = 0
        self._devices: dict[str, str] = {}
        self._average = Gauge("ironcliw_model_average_ms", "Mean time of a batch.", ("model",))
        self._generation = {
            name: Gauge(f"ironcliw_generation_{name}", text, ("model",))
            for name, text in _GENERATION.items()
        }
        self._cascades = Counter(
            "ironcliw_cascade_questions_total",
            "Questions that a step of a cascade decided, or skipped since it cannot answer them.",
            ("cascade", "model", "outcome"),
        )
        self._first_token = Histogram(
            "ironcliw_time_to_first_token_seconds",
            "To an answer's first token.",
            _SECONDS,
            ("model",),
        )
        self._per_token = Histogram(
            "ironcliw_time_per_output_token_seconds",
            "Mean time of an answer's later tokens.",
            _SECONDS,
            ("model",),
        )

    def on_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.inc(1, {"method": method, "route": route, "status": str(status)})
        self._latency.observe(seconds, {"route": route})

    def for_model(self, model: str) -> ModelObserver:
        """The observer of one model's batches."""
        return ModelObserver(self, model)

    def on_batch(
        self, model: str, tokens: int, items: int, waits: Sequence[float], seconds: float
    ) -> None:
        """Count one batch."""
        tags = {"model": model}
        self._tokens.inc(tokens, tags)
        self._items.inc(items, tags)
        self._batch.observe(tokens, tags)
        self._compute.observe(seconds, tags)
        for wait in waits:
            self._queue.observe(wait, tags)

    def on_cascade(self, cascade: str, model: str, outcome: str) -> None:
        """Count one question to a step of a cascade: `decided` or `skipped`."""
        self._cascades.inc(1, {"cascade": cascade, "model": model, "outcome": outcome})

    def on_stats(
        self, waiting: dict[str, int], hits: int, misses: int, models: list[dict[str, Any]]
    ) -> None:
        """Set the gauges; called every few seconds."""
        for model, tokens in waiting.items():
            self._waiting.set(tokens, {"model": model})
        for counter, before, now in (
            (self._cache_hits, self._hits, hits),
            (self._cache_misses, self._misses, misses),
        ):
            if now > before:
                counter.inc(now - before)
        self._hits, self._misses = hits, misses
        for row in models:
            tags = {"model": row["id"]}
            self._resident.set(row["bytes"], tags)
            self._loads.set(row["loads"], tags)
            self._uses.set(row["uses"], tags)
            self._set_device(row["id"], row["device"])
            if row["average_ms"] is not None:
                self._average.set(row["average_ms"], tags)
            for name, value in row.get("generation", {}).items():
                self._generation[name].set(value, tags)

    def on_generation(
        self, model: str, prompt_tokens: int, tokens: int, first_seconds: float, seconds: float
    ) -> None:
        """Observe one request whose text was generated.

        Args:
            model: Model id.
            prompt_tokens: Read.
            tokens: Generated, over all its answers.
            first_seconds: From the request to its first piece of text.
            seconds: From the request to its end.
        """
        tags = {"model": model}
        self._first_token.observe(first_seconds, tags)
        if tokens > 1:
            self._per_token.observe((seconds - first_seconds) / (tokens - 1), tags)

    def _set_device(self, model: str, device: str | None) -> None:
        # a series that is no longer set would keep its last value for ever
        before = self._devices.pop(model, None)
        if before is not None and before != device:
            self._loaded.set(0, {"model": model, "device": before})
        if device is not None:
            self._devices[model] = device
            self._loaded.set(1, {"model": model, "device": device})


class FailoverMetrics:
    """A `serve.failover_router.FailoverObserver`; made only where there is a cloud."""

    def __init__(self) -> None:
        self._attempts = Counter(
            "ironcliw_attempts_total", "Attempts to answer a request.", ("variant", "outcome")
        )
        self._failovers = Counter(
            "ironcliw_failovers_total", "Attempts that another one had to follow.", ("reason",)
        )
        self._phase = Gauge(
            "ironcliw_spot_state", "1 for the state of the cloud's replicas.", ("state",)
        )

    def on_attempt(self, variant: str, outcome: str) -> None:
        """Count one attempt."""
        self._attempts.inc(1, {"variant": variant, "outcome": outcome})

    def on_failover(self, reason: str) -> None:
        """Count the way on from one."""
        self._failovers.inc(1, {"reason": reason})

    def on_phase(self, phase: str) -> None:
        """Set the state."""
        for one in Phase:
            self._phase.set(float(one == phase), {"state": one})


class ModelObserver:
    """A `BatchObserver` for one model."""

    def __init__(self, metrics: IngressMetrics, model: str) -> None:
        self._metrics = metrics
        self._model = model

    def on_batch(
        self, tokens: int, items: int, queue_seconds: Sequence[float], seconds: float
    ) -> None:
        """Count one batch."""
        self._metrics.on_batch(self._model, tokens, items, queue_seconds, seconds)
