"""Nearness of texts as what a training loop minimises.

What a row is compared with are the rows of its logical shard, and no others: a shard is computed by
one worker whatever their number is, so the bits of a step do not depend on it. A shard of any size
is computed in chunks of tokens (Gao et al., "Scaling deep contrastive learning batch size under
memory limited setup", arXiv 2101.06983): all vectors first, without what a backward pass needs; the
loss and its gradient with respect to the vectors; then each chunk again, with that gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from train.data.plan import MicroBatch, Step
from train.data.tokenized import TokenizedData
from train.embedding.batch import Comparison, GroupedTexts, compare
from train.embedding.encoder import Encoder
from train.embedding.losses import contrastive_loss, nearest_is_own
from train.embedding.options import EmbeddingOptions
from train.randomness import generator_state, restore_generator

Texts = Sequence[npt.NDArray[np.int32]]


class EmbeddingLoss:
    """The contrastive loss of texts, averaged over rows.

    Args:
        encoder: That is trained.
        data: Rows of texts.
        options: Of the loss.
        micro_batch_tokens: Most tokens that are computed together.
    """

    measures: Sequence[str] = ("batch_accuracy",)

    def __init__(
        self,
        encoder: Encoder,
        data: TokenizedData,
        options: EmbeddingOptions,
        micro_batch_tokens: int,
    ) -> None:
        self._encoder = encoder
        self._texts = GroupedTexts(data)
        self._options = options
        self._most = micro_batch_tokens
        self._lengths = (encoder.dimensions, *options.matryoshka)

    def units(self, step: Step) -> int:
        """Rows."""
        return len(step.rows)

    def backward(self, batch: MicroBatch) -> Sequence[float]:
        """See `train.loop.objective.Objective`; the batch is a whole shard.

        Which positives are taken is drawn from torch's generator, which the loop has seeded with
        the place in the run.
        """
        comparison = compare(self._texts, batch.rows, self._positives(batch.rows))
        chunks = in_chunks(comparison.texts, self._most)
        if len(chunks) == 1:
            loss, right = self._loss(self._encoder(chunks[0]), comparison)
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach()), right
        device = self._encoder.device
        states, parts = [], []
        with torch.no_grad():
            for chunk in chunks:
                states.append(generator_state(device))
                parts.append(self._encoder(chunk))
        vectors = torch.cat(parts).requires_grad_()
        loss, right = self._loss(vectors, comparison)
        loss.backward()  # type: ignore[no-untyped-call]
        assert vectors.grad is not None
        gradients = torch.split(vectors.grad, [len(chunk) for chunk in chunks])
        for chunk, state, gradient in zip(chunks, states, gradients, strict=True):
            # what was dropped at random before is dropped again
            restore_generator(state, device)
            self._encoder(chunk).backward(gradient)
        return float(loss.detach()), right

    def check_first(self, loss: float) -> None:
        """Any loss may be right."""

    def _positives(self, rows: Sequence[int]) -> list[npt.NDArray[np.int32]]:
        if not self._texts.labelled:
            return [self._texts.text(row, 1) for row in rows]
        drawn = torch.rand(2, len(rows), dtype=torch.float64).tolist()
        share = self._options.label_name_share
        return [
            self._texts.positive(row, name < share, other)
            for row, name, other in zip(rows, *drawn, strict=True)
        ]

    def _loss(self, vectors: torch.Tensor, given: Comparison) -> tuple[torch.Tensor, float]:
        """The summed loss, and how many anchors are nearest to their own."""
        return summed_loss(vectors, given, self._options.temperature, self._lengths)


def summed_loss(
    vectors: torch.Tensor, given: Comparison, temperature: float, lengths: Sequence[int]
) -> tuple[torch.Tensor, float]:
    """The summed loss of a comparison, and how many anchors are nearest to their own.

    Args:
        vectors: float32 [M, D], of the comparison's texts.
        given: Which of them are compared.
        temperature: As `contrastive_loss` has it.
        lengths: As there; the first is that of the count.
    """
    to = vectors.device
    # not by brackets: their backward pass adds in the order in which threads come
    anchors = vectors.index_select(0, torch.from_numpy(given.anchors).to(to))
    candidates = vectors.index_select(0, torch.from_numpy(given.candidates).to(to))
    own = torch.from_numpy(given.own).to(to)
    excluded = torch.from_numpy(given.excluded).to(to)
    losses = contrastive_loss(
        anchors, candidates, own, excluded, temperature=temperature, lengths=lengths
    )
    with torch.no_grad():
        right = nearest_is_own(anchors, candidates, own, excluded, lengths[0])
    return losses.sum(), float(right.sum())


def in_chunks(texts: Texts, most: int) -> list[Texts]:
    """Texts in their order, as many together as have `most` tokens, or one that has more."""
    chunks: list[list[npt.NDArray[np.int32]]] = []
    room = 0
    for text in texts:
        if not chunks or len(text) > room:
            chunks.append([])
            room = most
        chunks[-1].append(text)
        room -= len(text)
    return list(chunks)
