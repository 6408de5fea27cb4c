"""Embeddings from request to answer: check, tokenise, look up, batch, finish."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ironcliw.catalog import Catalog, ModelCard
from ironcliw.errors import (
    AdapterError,
    ContextLengthError,
    MemoryBudgetError,
    RequestError,
    RequestTooLargeError,
)
from ironcliw.schemas import EmbeddingRequest
from ironcliw.setting_sections import ServeSettings
from serve.answers import embedding_body, shorten
from serve.batcher import Priority
from serve.batching import BatchObserver, BatchQueue
from serve.content_cache import ContentCache
from serve.engines.protocol import AdaptedTokens, Encoded, Tokens, Vectors
from serve.engines.registry import Prepared, load_preparer, require_embedding
from serve.failover_lane import open_lane
from serve.failover_variant import FailoverVariant
from serve.lanes import Lane
from serve.read_once import ReadOnce
from serve.variants import Variant

# Tokenising this many characters takes about a millisecond, longer inputs leave the event loop.
_INLINE_CHARACTERS = 4096
# Longer ones would hold a tokenising thread for seconds, to be cut to a few hundred tokens.
_MOST_CHARACTERS = 1_000_000
# Kept of a deadline for writing and sending the answer.
_ANSWER_SECONDS = 0.005
_PRIORITIES = {
    "critical": Priority.CRITICAL,
    "high": Priority.HIGH,
    "normal": Priority.NORMAL,
    "low": Priority.LOW,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """Who answered: the `x-ironcliw-*` headers.

    Attributes:
        model: Model id.
        variant: Group of replicas.
        node: Machine that computed.
        degraded: Why the answer is less than was asked for; None when it is not.
        cached: Every vector came from the content cache.
    """

    model: str
    variant: str
    node: str
    degraded: str | None = None
    cached: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """Vectors of one request.

    Attributes:
        vectors: float32 [B, D], in the order of the inputs.
        tokens: Tokens over all inputs, special tokens included.
        truncated: (index, dropped tokens) of each input that was cut.
        served: Who answered.
    """

    vectors: Vectors
    tokens: int
    truncated: list[tuple[int, int]]
    served: Served


class EmbeddingService:
    """Answers embedding requests through a variant.

    Args:
        catalog: The known models.
        settings: Limits.
        variant: Where batches are computed.
        cache_dir: Where fetched models are kept.
        observer: Told of every batch, by model.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: ServeSettings,
        variant: Variant,
        cache_dir: Path,
        observer: Callable[[str], BatchObserver] | None = None,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._variant = variant
        self._cache_dir = cache_dir
        self._observer = observer
        self._cache = ContentCache(settings.embedding_cache_bytes)
        self._prepared = ReadOnce(self._prepare)
        self._adapters = ReadOnce(self._load_adapter)
        self._cached: set[str] = set()  # models under adapters whose vectors may be kept
        self._lanes: dict[str, Lane] = {}
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="tokenise")

    @property
    def content_cache(self) -> ContentCache:
        """Vectors kept by content."""
        return self._cache

    def lanes(self) -> dict[str, BatchQueue]:
        """The queues of each model that was asked for."""
        lanes = self._lanes.items()
        return {name: q for model, lane in lanes for name, q in lane.queues(model).items()}

    async def answer(
        self, request: EmbeddingRequest, deadline: float | None
    ) -> tuple[bytes, EmbeddingResult]:
        """JSON bytes of an `EmbeddingResponse`, and what it was made from."""
        result = await self.embed(request, deadline)
        body = embedding_body(
            result.vectors,
            result.served.model,
            result.tokens,
            result.truncated,
            request.encoding_format,
        )
        return body, result

    async def embed(self, request: EmbeddingRequest, deadline: float | None) -> EmbeddingResult:
        """Vectors of a request.

        Args:
            request: Already of the right form.
            deadline: On the clock of `time.monotonic`, or None.

        Raises:
            IroncliwError: see the error tree.
        """
        card = self._catalog[request.model]
        require_embedding(card)
        if card.dimensions:
            _check_dimensions(request, card.dimensions)
        inputs = self._inputs(request)
        prepared = await self._prepared.get(_base(card))
        encoded = await self._encode(prepared, request, inputs)
        total = self._check_tokens(request, encoded)
        vectors, served = await self._vectors(
            card, [item.tokens for item in encoded], _PRIORITIES[request.priority], deadline
        )
        _check_dimensions(request, vectors.shape[1])
        return EmbeddingResult(
            shorten(vectors, request.dimensions),
            total,
            _cut(encoded),
            served,
        )

    async def vectors_of(
        self,
        model_id: str,
        texts: Sequence[str],
        priority: str = "normal",
        deadline: float | None = None,
    ) -> EmbeddingResult:
        """Vectors of texts, for what else is built on them.

        Args:
            model_id: An embedding model.
            texts: At least one; cut to the model's window, which the result says.
            priority: As in a request.
            deadline: On the clock of `time.monotonic`, or None.

        Raises:
            RequestTooLargeError: more tokens than one request may have.
            IroncliwError: see the error tree.
        """
        card = self._catalog[model_id]
        require_embedding(card)
        prepared = await self._prepared.get(_base(card))
        encoded = await self._encode_texts(prepared, texts, prepared.default_prompt)
        total = self._total(encoded, "the texts have")
        sequences = [item.tokens for item in encoded]
        vectors, served = await self._vectors(card, sequences, _PRIORITIES[priority], deadline)
        return EmbeddingResult(vectors, total, _cut(encoded), served)

    def errors(self) -> dict[str, str]:
        """Why a model's tokenizer could not be read, by model."""
        return self._prepared.errors()

    def forget(self, model_id: str) -> None:
        """Drop a model's tokenizer and answers: it may come back with other files."""
        self._prepared.forget(model_id)
        self._adapters.forget(model_id)
        for known in {model_id, *(one for one in self._cached if _is_under(one, model_id))}:
            self._cache.forget(known)

    async def close(self) -> None:
        """Fail what waits and stop."""
        for lane in self._lanes.values():
            await lane.close()
        self._threads.shutdown(wait=False)

    def _inputs(self, request: EmbeddingRequest) -> Any:
        given = request.input
        items: Any = given
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            items = [given]
        if not items:
            raise RequestError("input is an empty list; give at least one text", param="input")
        if len(items) > self._settings.max_batch_items:
            raise RequestTooLargeError(
                f"input has {len(items)} items; at most {self._settings.max_batch_items} are "
                "allowed in one request",
                param="input",
            )
        for index, item in enumerate(items):
            if len(item) == 0:
                raise RequestError(f"input[{index}] is empty", param="input")
            if len(item) > _MOST_CHARACTERS:
                raise RequestTooLargeError(
                    f"input[{index}] has {len(item)} characters; at most {_MOST_CHARACTERS} are "
                    "allowed in one text",
                    param="input",
                )
        return items

    async def _prepare(self, model_id: str) -> Prepared:
        return await asyncio.to_thread(load_preparer, self._catalog[model_id], self._cache_dir)

    async def _load_adapter(self, model_id: str) -> None:
        await self._variant.load(model_id, False, None)

    async def _encode(
        self, prepared: Prepared, request: EmbeddingRequest, inputs: Any
    ) -> list[Encoded]:
        prompt = _prompt(prepared, request)
        if isinstance(inputs[0], str):
            return await self._encode_texts(prepared, inputs, prompt)
        return [prepared.encoder.check(tokens) for tokens in inputs]

    async def _encode_texts(
        self, prepared: Prepared, texts: Sequence[str], prompt: str
    ) -> list[Encoded]:
        if sum(map(len, texts)) <= _INLINE_CHARACTERS:
            return prepared.encoder.encode(texts, prompt)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, prepared.encoder.encode, texts, prompt)

    def _check_tokens(self, request: EmbeddingRequest, encoded: Sequence[Encoded]) -> int:
        if not request.truncate:
            for index, item in enumerate(encoded):
                if item.truncated:
                    given = len(item.tokens) + item.truncated
                    raise ContextLengthError(
                        f"input[{index}] has {given} tokens; {request.model} reads "
                        f"{len(item.tokens)} at most, and truncate is false",
                        param="input",
                    )
        return self._total(encoded, "input has", "input")

    def _total(self, encoded: Sequence[Encoded], what: str, param: str | None = None) -> int:
        total = sum(len(item.tokens) for item in encoded)
        if total > self._settings.max_request_tokens:
            raise RequestTooLargeError(
                f"{what} {total} tokens over all items; at most "
                f"{self._settings.max_request_tokens} are allowed in one request",
                param=param,
            )
        return total

    async def _vectors(
        self, card: ModelCard, sequences: list[Tokens], priority: Priority, deadline: float | None
    ) -> tuple[Vectors, Served]:
        model_id, adapter = card.id, card.adapter
        rows = [self._cache.get(model_id, tokens) for tokens in sequences]
        missing = [index for index, row in enumerate(rows) if row is None]
        lane = self._lane(self._lane_of(card))
        route = lane.route
        if missing:
            asked = [sequences[index] for index in missing]
            if adapter is not None:
                # one that cannot be loaded must not fail a batch that others are in
                await self._adapters.get(model_id)
                self._cached.add(model_id)
            end = None if deadline is None else deadline - _ANSWER_SECONDS
            items = asked if adapter is None else [AdaptedTokens(each, adapter) for each in asked]
            try:
                computed, route = await lane.submit(items, priority, end)
            except (AdapterError, MemoryBudgetError):
                # evicted since, and gone: the next one asks for it before it joins a batch
                self._adapters.forget(model_id)
                raise
            for index, row in zip(missing, computed, strict=True):
                rows[index] = row
                self._cache.put(model_id, sequences[index], row)
        vectors = np.stack([row for row in rows if row is not None])
        return vectors, Served(model_id, *route, cached=not missing and bool(rows))

    def _lane_of(self, card: ModelCard) -> str:
        """A base and its adapters share their batches, but for those that must stay at home."""
        stays = card.adapter is not None and card.adapter.is_local
        return card.id if stays and isinstance(self._variant, FailoverVariant) else _base(card)

    def _lane(self, model_id: str) -> Lane:
        lane = self._lanes.get(model_id)
        if lane is None:
            observer = self._observer(model_id) if self._observer else None
            lane = self._lanes[model_id] = open_lane(
                self._variant, "embed", model_id, self._settings, observer
            )
        return lane


def _base(card: ModelCard) -> str:
    """Of a model under an adapter, its base: tokenizer and batches are the base's."""
    return card.id if card.adapter is None else card.adapter.base


def _is_under(model_id: str, base: str) -> bool:
    return model_id.partition(":")[0] == base


def _cut(encoded: Sequence[Encoded]) -> list[tuple[int, int]]:
    """(index, dropped tokens) of each text that was cut."""
    return [(index, item.truncated) for index, item in enumerate(encoded) if item.truncated]


def _check_dimensions(request: EmbeddingRequest, most: int) -> None:
    if request.dimensions is not None and request.dimensions > most:
        raise RequestError(
            f"dimensions is {request.dimensions}; {request.model} has {most}", param="dimensions"
        )


def _prompt(prepared: Prepared, request: EmbeddingRequest) -> str:
    if request.prompt_name is None:
        return prepared.default_prompt
    try:
        return prepared.prompts[request.prompt_name]
    except KeyError:
        known = ", ".join(sorted(prepared.prompts)) or "none"
        raise RequestError(
            f"prompt_name is {request.prompt_name!r}; {request.model} has these prompts: {known}",
            param="prompt_name",
        ) from None
