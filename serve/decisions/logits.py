"""A sequence classifier as the decision methods use it: tokens in, logits out, batched.

One queue a model carries every text, question and label of every request, so that they share
batches whoever asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ironcliw.catalog import Catalog
from ironcliw.errors import RequestTooLargeError
from ironcliw.setting_sections import ServeSettings
from ironcliw.sources import locate
from serve.batcher import Priority
from serve.batching import BatchObserver, BatchQueue
from serve.embeddings import Served
from serve.engines.fake import FakeTextEncoder
from serve.engines.pair_tokenizer import PairEncoder
from serve.engines.protocol import Encoded, Tokens, Vectors
from serve.failover_lane import open_lane
from serve.lanes import Lane
from serve.read_once import ReadOnce
from serve.variants import Variant

# Kept of a deadline for writing and sending the answer.
_ANSWER_SECONDS = 0.005
# Tokenising this many characters takes about a millisecond.
_INLINE_CHARACTERS = 4096


class SequenceEncoder(Protocol):
    """The CPU half of a classifier; `serve.engines.pair_tokenizer.PairEncoder` is the real one."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's config.json."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names, in the order of the logits."""
        ...

    def single(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokens of each text by itself."""
        ...

    def pairs(self, text: str, hypotheses: Sequence[str]) -> list[Encoded]:
        """Tokens of (text, hypothesis) for each hypothesis."""
        ...


@dataclass(frozen=True, slots=True)
class Logits:
    """Logits of one request.

    Attributes:
        rows: float32 [B, C], in the order of the sequences.
        tokens: Of all sequences, special tokens included.
        served: Who computed.
        truncated: Tokens that did not fit, of the sequence that lost the most.
    """

    rows: Vectors
    tokens: int
    served: Served
    truncated: int


class SequenceClassifiers:
    """Tokenizers and queues of the classifiers that were asked for.

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
        self._encoders = ReadOnce(self._load)
        self._lanes: dict[str, Lane] = {}

    def lanes(self) -> dict[str, BatchQueue]:
        """The queues of each model that was asked for."""
        lanes = self._lanes.items()
        return {name: q for model, lane in lanes for name, q in lane.queues(model).items()}

    async def encoder(self, model_id: str) -> SequenceEncoder:
        """The model's tokenizer, loaded once.

        Raises:
            ModelLoadError: its files are absent, damaged or of a kind that is not supported.
        """
        return await self._encoders.get(model_id)

    async def singles(self, model_id: str, texts: Sequence[str]) -> list[Encoded]:
        """Tokens of each text by itself; long ones are read outside the event loop."""
        encoder = await self.encoder(model_id)
        if sum(map(len, texts)) <= _INLINE_CHARACTERS:
            return encoder.single(texts)
        return await asyncio.to_thread(encoder.single, texts)

    async def pairs(self, model_id: str, text: str, hypotheses: Sequence[str]) -> list[Encoded]:
        """Tokens of (text, hypothesis) for each hypothesis, likewise."""
        encoder = await self.encoder(model_id)
        if len(text) + sum(map(len, hypotheses)) <= _INLINE_CHARACTERS:
            return encoder.pairs(text, hypotheses)
        return await asyncio.to_thread(encoder.pairs, text, hypotheses)

    async def logits(
        self, model_id: str, items: Sequence[Encoded], priority: str, deadline: float | None
    ) -> Logits:
        """Logits of every sequence; equal ones are computed once.

        Raises:
            RequestTooLargeError: more tokens than one request may have.
            OverloadedError, DeadlineExceededError, UnavailableError: see `BatchQueue.submit`.
        """
        total = sum([len(item.tokens) for item in items])
        if total > self._settings.max_request_tokens:
            raise RequestTooLargeError(
                f"text, questions and labels make {total} tokens in {len(items)} sequences; at "
                f"most {self._settings.max_request_tokens} are allowed in one request",
                param="questions",
            )
        places: dict[bytes, int] = {}
        order = [places.setdefault(item.tokens.tobytes(), len(places)) for item in items]
        distinct: dict[int, Tokens] = dict(zip(order, [item.tokens for item in items], strict=True))
        lane = self._lane(model_id)
        rows, route = await lane.submit(
            [distinct[place] for place in range(len(distinct))],
            Priority[priority.upper()],
            None if deadline is None else deadline - _ANSWER_SECONDS,
        )
        served = Served(model_id, *route)
        cut = max([item.truncated for item in items])
        return Logits(np.stack(rows)[order], total, served, cut)

    def errors(self) -> dict[str, str]:
        """Why a model's tokenizer could not be read, by model."""
        return self._encoders.errors()

    def forget(self, model_id: str) -> None:
        """Drop a model's tokenizer."""
        self._encoders.forget(model_id)

    async def close(self) -> None:
        """Fail what waits and stop."""
        for lane in self._lanes.values():
            await lane.close()

    async def _load(self, model_id: str) -> SequenceEncoder:
        card = self._catalog[model_id]
        if card.source and card.source.startswith("fake:"):
            deadline = time.monotonic() + self._settings.request_timeout_seconds
            return _FakeEncoder(await self._variant.class_labels(model_id, deadline))
        return await asyncio.to_thread(lambda: PairEncoder.load(locate(card, self._cache_dir)))

    def _lane(self, model_id: str) -> Lane:
        lane = self._lanes.get(model_id)
        if lane is None:
            observer = self._observer(model_id) if self._observer else None
            lane = self._lanes[model_id] = open_lane(
                self._variant, "classify", model_id, self._settings, observer, padded=True
            )
        return lane


class _FakeEncoder(FakeTextEncoder):
    """For models with the source `fake:C`; a pair is one text with a separator."""

    config: Mapping[str, Any] = {}

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels

    def single(self, texts: Sequence[str]) -> list[Encoded]:
        return self.encode(texts)

    def pairs(self, text: str, hypotheses: Sequence[str]) -> list[Encoded]:
        return self.encode([f"{text} | {hypothesis}" for hypothesis in hypotheses])
