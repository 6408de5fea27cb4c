"""Measures of an embedding model on rows that are not trained on.

retrieval_accuracy  the share of texts to which no positive or negative is nearer than their
                    own; of labelled texts, to which no label's name is nearer than their own's
prototype_accuracy  of labelled texts alone: the share that is nearest to the mean of its
                    label's other texts, among the means of all labels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from train.config import TrainingConfig
from train.data.tokenized import TokenizedData
from train.embedding.batch import GroupedTexts, compare
from train.embedding.encoder import Encoder
from train.embedding.losses import nearest_is_own
from train.embedding.objective import in_chunks, summed_loss
from train.evaluation.evaluator import Measures, is_due
from train.loop.reduce import Alone, Group
from train.loop.shares import InterruptedEvaluationError


class EmbeddingEvaluator:
    """Measures a model on texts, at the end of epochs; each worker of a run all of them.

    Args:
        encoder: That is trained.
        data: Rows of texts that are held out.
        config: What, how often, and on how many rows: they are taken from all over the data.
        steps_per_epoch: Of the run.
        group: The workers.
    """

    def __init__(
        self,
        encoder: Encoder,
        data: TokenizedData,
        config: TrainingConfig,
        steps_per_epoch: int,
        group: Group | None = None,
    ) -> None:
        assert config.embedding is not None
        self._group = group or Alone()
        self._encoder = encoder
        self._evaluation = config.evaluation
        self._most = config.micro_batch_tokens
        self._steps_per_epoch = steps_per_epoch
        self._temperature = config.embedding.temperature
        self._lengths = (encoder.dimensions, *config.embedding.matryoshka)
        texts = GroupedTexts(data)
        self._rows = measured_rows(data, config.evaluation.max_rows)
        # all labels can be chosen; the positives of all pairs may be too many
        more = texts.distinct_labels() if texts.labelled else []
        positives = [texts.text(row, 1) for row in self._rows]
        self._comparison = compare(texts, self._rows, positives, more)
        self._labels = texts.labels[self._rows] if texts.labelled else None

    def measure(
        self, step: int, steps: int, notice: Callable[[], bool] = lambda: False
    ) -> Measures | None:
        """Loss and accuracies; of shorter vectors too, as `retrieval_accuracy_64`.

        Args:
            step: Optimizer steps done.
            steps: Of the whole run.
            notice: Whether to leave at once.

        Returns:
            None where nothing is due at this step.

        Raises:
            InterruptedEvaluationError: a notice came, to this worker or another.
            PeerLostError: another worker is gone.
        """
        if not is_due(self._evaluation, step, steps, self._steps_per_epoch):
            return None
        was_training = self._encoder.training
        self._encoder.train(False)
        try:
            vectors = self._vectors(notice)
        finally:
            self._encoder.train(was_training)
        return self._measures(vectors)

    @torch.no_grad()
    def _vectors(self, notice: Callable[[], bool]) -> torch.Tensor:
        parts = []
        for chunk in in_chunks(self._comparison.texts, self._most):
            if any(ends for (ends,) in self._group.numbers([float(notice())])):
                raise InterruptedEvaluationError
            parts.append(self._encoder(chunk))
        return torch.cat(parts).cpu()

    def _measures(self, vectors: torch.Tensor) -> Measures:
        given = self._comparison
        loss, right = summed_loss(vectors, given, self._temperature, self._lengths)
        rows = len(self._rows)
        found: Measures = {"eval_loss": float(loss) / rows, "retrieval_accuracy": right / rows}
        anchors, candidates = vectors[given.anchors], vectors[given.candidates]
        own, excluded = torch.from_numpy(given.own), torch.from_numpy(given.excluded)
        for length in self._lengths[1:]:
            nearest = nearest_is_own(anchors, candidates, own, excluded, length)
            found[f"retrieval_accuracy_{length}"] = float(nearest.sum()) / rows
        if self._labels is not None:
            accuracy = prototype_accuracy(anchors.numpy(), self._labels)
            found |= {} if accuracy is None else {"prototype_accuracy": accuracy}
        return {**found, "eval_rows": rows}


def measured_rows(data: TokenizedData, most: int) -> list[int]:
    """Rows from all over the data, `most` at the most."""
    count = min(len(data), most)
    found: list[int] = np.linspace(0, len(data) - 1, count).astype(np.int64).tolist()
    return found


def has_prototypes(data: TokenizedData, most: int) -> bool:
    """Whether `prototype_accuracy` can be measured: a label has two of the measured rows.

    Args:
        data: Rows that are held out.
        most: Of them that are measured.
    """
    if data.groups is None or not data.groups.labelled or not len(data):
        return False
    labels = GroupedTexts(data).labels[measured_rows(data, most)]
    return len(np.unique(labels)) < len(labels)


def prototype_accuracy(
    vectors: npt.NDArray[np.float32], labels: Sequence[int] | npt.NDArray[np.int64]
) -> float | None:
    """Share of texts that are nearest to the mean of their label's other texts.

    Texts that are alone under their label are not asked for; None: all are.

    Args:
        vectors: float32 [N, D], not normalised.
        labels: [N].
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    names, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(names), unit.shape[1]))
    np.add.at(sums, places, unit)
    asked = np.flatnonzero(counts[places] > 1)
    if not len(asked):
        return None
    means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    cosines = unit[asked] @ means.T
    rest = sums[places[asked]] - unit[asked]
    rest /= np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), 1e-12)
    # its own text must not speak for a label
    cosines[np.arange(len(asked)), places[asked]] = (unit[asked] * rest).sum(1)
    return float((cosines.argmax(1) == places[asked]).mean())
