"""Decisions by a head that was fitted and calibrated before: `ironcliw train head` writes it.

Its probabilities are calibrated over all of its labels; of a question they are those of the choices
given, made to sum to 1, and how much the head gave to all of them together is the fit.

Shapes: L labels, D dimensions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ironcliw.adapter_sources import locate_adapter
from ironcliw.catalog import Catalog, ModelCard
from ironcliw.errors import AdapterError, RequestError
from ironcliw.head_record import BIAS, WEIGHT, WEIGHTS_FILE, HeadRecord
from serve.adapter_loading import check_base
from serve.decisions.answers import Estimate, Estimates, Probabilities, softmax
from serve.decisions.classifier import chosen_columns, chosen_estimate
from serve.decisions.embedding import Embedder
from serve.decisions.questions import Options, Question
from serve.embeddings import EmbeddingResult
from serve.read_once import ReadOnce

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PublishedHead:
    """A head in memory.

    Attributes:
        record: What it says of itself.
        weight: float32 [L, D].
        bias: float32 [L].
        base: The model whose vectors it reads.
    """

    record: HeadRecord
    weight: Matrix
    bias: Matrix
    base: str

    def probabilities(self, vectors: Matrix) -> Probabilities:
        """Calibrated, float64 [B, L], of float32 [B, D]; vectors may have any length.

        Raises:
            RequestError: the vectors have other dimensions than the head reads.
        """
        if vectors.shape[1] != self.record.dimensions:
            raise RequestError(
                f"the head reads vectors of {self.record.dimensions} dimensions, and those of "
                f"{self.base!r} have {vectors.shape[1]}: it was fitted to another model; fit it "
                "again",
                param="model",
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.maximum(lengths, np.float32(1e-12))
        logits = unit.astype(np.float64) @ self.weight.T + self.bias
        return softmax(logits / self.record.temperature)


def load_head(card: ModelCard, cache_dir: Path) -> PublishedHead:
    """Read a head's files; blocking, for milliseconds, longer from a bucket.

    Raises:
        AdapterError: the files are absent, damaged, no head, or one of another base's vectors.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    adapter = card.adapter
    assert adapter is not None, f"{card.id} has no head"
    folder = locate_adapter(adapter, cache_dir)
    record = HeadRecord.read(folder)
    # vectors of other weights have the same dimensions, and mean something else
    check_base(card, adapter.base_digest or record.base_digest, cache_dir)
    file = folder / WEIGHTS_FILE
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{file} is damaged ({error}); publish the head again") from error
    wanted = {WEIGHT: (len(record.labels), record.dimensions), BIAS: (len(record.labels),)}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != wanted or not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise AdapterError(
            f"{file} holds {shapes}, and its record asks for {wanted}, all of them finite: the two "
            "files do not belong together; publish the head again"
        )
    found = {name: tensors[name].astype(np.float32) for name in wanted}
    return PublishedHead(record, found[WEIGHT], found[BIAS], adapter.base)


class HeadMethod:
    """One vector of the text answers every question whose options are labels of the head.

    Args:
        catalog: Of models and what was published for them.
        embedder: Where vectors come from.
        cache_dir: Where fetched models are kept.
    """

    def __init__(self, catalog: Catalog, embedder: Embedder, cache_dir: Path) -> None:
        self._catalog = catalog
        self._embedder = embedder
        self._cache_dir = cache_dir
        self._heads = ReadOnce(self._read)

    async def estimate(
        self,
        model_id: str,
        text: str,
        questions: Sequence[Question],
        options: Options,
        deadline: float | None,
    ) -> Estimates:
        """See `serve.decisions.answers.Method`."""
        head = await self._heads.get(model_id)
        wanted = [chosen_columns(model_id, question, head.record.labels) for question in questions]
        whole, found = await self._whole(head, [text], options.priority, deadline)
        estimates: list[Estimate] = [
            chosen_estimate(question, whole[0][columns])
            for question, columns in zip(questions, wanted, strict=True)
        ]
        cut = sum(dropped for _, dropped in found.truncated)
        return Estimates(estimates, found.tokens, found.served, cut)

    async def own_labels(
        self, model_id: str, texts: Sequence[str], priority: str, deadline: float | None
    ) -> tuple[tuple[str, ...], Probabilities, EmbeddingResult]:
        """All labels, their probabilities float64 [B, L], and who made the vectors."""
        head = await self._heads.get(model_id)
        whole, found = await self._whole(head, texts, priority, deadline)
        return head.record.labels, whole, found

    def forget(self, model_id: str) -> None:
        """See `serve.decisions.answers.Method`."""
        self._heads.forget(model_id)

    async def _whole(
        self, head: PublishedHead, texts: Sequence[str], priority: str, deadline: float | None
    ) -> tuple[Probabilities, EmbeddingResult]:
        found = await self._embedder.vectors_of(head.base, texts, priority, deadline)
        return head.probabilities(found.vectors), found

    async def _read(self, model_id: str) -> PublishedHead:
        return await asyncio.to_thread(load_head, self._catalog[model_id], self._cache_dir)
