"""Decisions by a bi-encoder: one vector of the text against vectors of the labels.

What a question's labels say (their vectors, the head over them) is kept by content, so that a
question asked again costs one embedding. The instructions of a choice or a scale are not read: a
bi-encoder compares the text with each label by itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ironcliw.errors import RequestTooLargeError
from serve.decisions.answers import Estimate, Estimates
from serve.decisions.heads import (
    IN_SCOPE_THRESHOLD,
    Head,
    few_shot_head,
    label_texts,
    names_head,
    predicate_probability,
)
from serve.decisions.questions import Options, Question
from serve.embeddings import EmbeddingResult
from serve.engines.protocol import Vectors

Read = Callable[[Vectors, str], Estimate]
"""From the text's vector, float32 [1, D], and the text to the answer's probabilities."""

Embed = Callable[[Sequence[str]], Awaitable[EmbeddingResult]]

_MOST_HEADS = 1024
# A head has two vectors and 512 words a label: 100 MB of heads at 512 dimensions, at most.
_MOST_HEAD_LABELS = 16_384
_MOST_TEXTS = 20_000


class Embedder(Protocol):
    """What of `serve.embeddings.EmbeddingService` is needed here."""

    async def vectors_of(
        self, model_id: str, texts: Sequence[str], priority: str, deadline: float | None
    ) -> EmbeddingResult:
        """Vectors of texts, float32 [B, D], what was cut, and who computed."""
        ...


@dataclass(frozen=True, slots=True)
class _Reader:
    """A question, ready for any text.

    Attributes:
        read: The answer to a text.
        tokens: What the question's labels and examples have.
        truncated: How many more they had, beyond the model's window.
    """

    read: Read
    tokens: int
    truncated: int


@dataclass(frozen=True, slots=True)
class _Kept:
    """A reader that is there or being made, and how many labels its head has."""

    task: asyncio.Task[_Reader]
    labels: int


class EmbeddingMethod:
    """Cosine to label names and descriptions, or a head fitted to the examples given.

    Args:
        embedder: Where vectors come from.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        # by model and content
        self._readers: OrderedDict[tuple[str, bytes], _Kept] = OrderedDict()
        self._labels = 0  # over all that is kept

    async def estimate(
        self,
        model_id: str,
        text: str,
        questions: Sequence[Question],
        options: Options,
        deadline: float | None,
    ) -> Estimates:
        """See `serve.decisions.answers.Method`."""
        _check_size(questions)
        readers = [self._reader(model_id, question, options.priority) for question in questions]
        given = await self._embedder.vectors_of(model_id, [text], options.priority, deadline)
        found = [
            # shielded: one client that leaves must not cancel it for the others
            task.result() if task.done() else await asyncio.shield(task)
            for task in readers
        ]
        unit = _unit(given.vectors)
        return Estimates(
            [reader.read(unit, text) for reader in found],
            given.tokens + sum([reader.tokens for reader in found]),
            given.served,
            _truncated(given) + sum([reader.truncated for reader in found]),
        )

    def forget(self, model_id: str) -> None:
        """See `serve.decisions.answers.Method`."""
        for key in [key for key in self._readers if key[0] == model_id]:
            self._labels -= self._readers.pop(key).labels

    def _reader(self, model_id: str, question: Question, priority: str) -> asyncio.Task[_Reader]:
        key = (model_id, question.content)
        kept = self._readers.get(key)
        if kept is not None and not _failed(kept.task):
            self._readers.move_to_end(key)
            return kept.task
        # without a deadline: others with a later one may wait for the same labels
        embed = partial(self._embedder.vectors_of, model_id, priority=priority, deadline=None)
        task = asyncio.create_task(_make(question, embed))
        # asked for again by whoever waits; this only says that somebody has seen it
        task.add_done_callback(_take_error)
        self._keep(key, _Kept(task, max(1, len(question.options))))
        return task

    def _keep(self, key: tuple[str, bytes], kept: _Kept) -> None:
        before = self._readers.pop(key, None)
        self._labels += kept.labels - (before.labels if before else 0)
        self._readers[key] = kept
        while len(self._readers) > _MOST_HEADS or self._labels > _MOST_HEAD_LABELS:
            self._labels -= self._readers.popitem(last=False)[1].labels


async def _make(question: Question, embed: Embed) -> _Reader:
    if question.kind == "predicate":
        found = await embed([question.instructions])
        read = _predicate(_unit(found.vectors)[0])
        return _Reader(read, found.tokens, _truncated(found))
    phrasings = [label_texts(option.text, option.description) for option in question.options]
    examples = [list(option.examples) for option in question.options]
    groups = [*phrasings, *examples]
    found = await embed([text for group in groups for text in group])
    split = np.split(_unit(found.vectors), np.cumsum([len(group) for group in groups])[:-1])
    labels, shown = split[: len(phrasings)], split[len(phrasings) :]
    if not any(examples):
        head = names_head(labels)
    else:
        # milliseconds for two labels, over a second for 255: the event loop has others to serve
        head = await asyncio.to_thread(few_shot_head, labels, shown, examples)
    # a text need not be like any level's name to have a place on the scale
    threshold = IN_SCOPE_THRESHOLD if question.kind == "choice" else None
    return _Reader(_options(head, threshold), found.tokens, _truncated(found))


def _predicate(statement: npt.NDArray[np.float32]) -> Read:
    def read(vector: Vectors, text: str) -> Estimate:
        return Estimate(np.array([predicate_probability(vector[0], statement)]))

    return read


def _options(head: Head, threshold: float | None) -> Read:
    def read(vector: Vectors, text: str) -> Estimate:
        scores = head(vector, [text])
        return Estimate(scores.probabilities[0], float(scores.in_scope[0]), threshold)

    return read


def _unit(vectors: Vectors) -> Vectors:
    """Vectors of length 1, float32 [B, D]: not every model normalises."""
    lengths = np.sqrt(np.einsum("bd,bd->b", vectors, vectors))[:, None]
    result: Vectors = vectors / np.maximum(lengths, np.float32(1e-12))
    return result


def _truncated(result: EmbeddingResult) -> int:
    return sum([dropped for _, dropped in result.truncated])


def _failed(task: asyncio.Task[_Reader]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _check_size(questions: Sequence[Question]) -> None:
    texts = sum([question.texts for question in questions])
    if texts > _MOST_TEXTS:
        raise RequestTooLargeError(
            f"the questions have {texts} labels, statements and examples; at most {_MOST_TEXTS} "
            "are allowed in one request",
            param="questions",
        )


def _take_error(task: asyncio.Task[_Reader]) -> None:
    if not task.cancelled():
        task.exception()
