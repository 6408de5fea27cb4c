"""Which label a text belongs to, by its vector: from the labels' names alone or from examples.

A head is made once for a set of labels and answers any number of texts, each for itself: a text's
answer does not depend on the others of the batch. Examples also tell by their words: which ones a
label uses adds a point of accuracy to what the vectors say.

Shapes: B texts, L labels, D embedding dimensions, W word features, K phrasings and E examples of a
label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from serve.decisions import calibration
from serve.decisions.calibration import Calibration
from serve.decisions.head_logistic import fit_logistic
from serve.decisions.lexical import WORD_FEATURES, word_features

IN_SCOPE_THRESHOLD: float = calibration.IN_SCOPE_THRESHOLD
"""Refuse below this `in_scope`. Fitted to answer 95 % of the texts that belong to a label, over
label sets of 2 to 150 labels; 92 to 94 % of CLINC150's validation split at 150 labels."""

# Chosen by accuracy and AUROC on CLINC150's train split; no label-specific wording.
PHRASINGS = (
    "{}",
    "i'd like to know {}",
    "can you tell me my {}",
    "hey, {}",
    "someone says {}",
    "i'm wondering about {}",
)
# Chosen on CLINC150's train split. A penalty of 1, scikit-learn's default, is 2 points worse.
PENALTY = 0.05
ITERATIONS = 20
# Of the words beside the vector, both of unit length: with 10 examples of 150 labels the train
# split's later texts are answered at 92.4 %, against 91.2 % by vectors alone; 0.4 to 0.7 do alike.
WORD_WEIGHT = np.float32(0.55)

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scores:
    """What a head says of B texts.

    Attributes:
        probabilities: float64 [B, L], each row sums to 1, calibrated.
        in_scope: float64 [B], the calibrated probability that the text belongs to any label.
    """

    probabilities: npt.NDArray[np.float64]
    in_scope: npt.NDArray[np.float64]


class Head(Protocol):
    """Scores texts against the labels that it was made of."""

    def __call__(self, vectors: Matrix, texts: Sequence[str]) -> Scores:
        """Scores of texts.

        Args:
            vectors: float32 [B, D], unit length.
            texts: The B texts they are of.

        Raises:
            ValueError: the vectors are no matrix, not of the labels' dimensions, or not as many
                as the texts.
        """
        ...


@dataclass(frozen=True, slots=True)
class LinearHead:
    """A linear classifier beside the labels' prototypes; see `names_head` and `few_shot_head`.

    Attributes:
        weights: float32 [D, L] of the logits.
        word_weights: float32 [W, L] of the logits; None where words say nothing.
        bias: float32 [L] of the logits.
        prototypes: float32 [L, D], unit length.
        examples: Mean number of examples a label.
        calibration: From logits and cosines to probabilities.
    """

    weights: Matrix
    word_weights: Matrix | None
    bias: Matrix
    prototypes: Matrix
    examples: float
    calibration: Calibration

    def evidence(
        self, vectors: Matrix, texts: Sequence[str]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Logits and cosines to the prototypes, each float64 [B, L], before any calibration."""
        _check_matrix(vectors, "vectors", self.prototypes.shape[1])
        _check_texts(texts, vectors, "")
        logits = vectors @ self.weights + self.bias
        if self.word_weights is not None:
            logits += word_features(texts) @ self.word_weights
        # all of them are wanted: `in_scope` takes their largest and their mean. That and the sizes
        # leave nothing to the operator cosine_top_k: 7 us here against 18 with 150 labels, 1.0 ms
        # against 1.8 with 10,000 (one text, 384 dimensions); and heads need no torch
        cosines = vectors @ self.prototypes.T
        return logits.astype(np.float64), cosines.astype(np.float64)

    def __call__(self, vectors: Matrix, texts: Sequence[str]) -> Scores:
        """See `Head`."""
        logits, cosines = self.evidence(vectors, texts)
        return Scores(
            self.calibration.probabilities(logits, cosines, self.examples),
            self.calibration.scope(cosines, self.examples),
        )


def label_texts(value: str, description: str | None) -> list[str]:
    """The phrasings of a label to embed; their vectors go to the heads below.

    Args:
        value: The label; underscores count as spaces.
        description: What it means. It then outweighs the name, which may be a mere code.
    """
    name = " ".join(value.replace("_", " ").split()) or value
    if description is not None and description.strip():
        return [name, description, f"{name}: {description}"]
    return [phrasing.format(name) for phrasing in PHRASINGS]


def names_head(labels: Sequence[Matrix]) -> LinearHead:
    """A head that knows the labels' names and descriptions alone.

    Args:
        labels: For each label float32 [K, D], the vectors of its phrasings.

    Raises:
        ValueError: fewer than two labels, a label without a vector, or unequal dimensions.
    """
    prototypes = _name_vectors(labels)
    bias = np.zeros(len(prototypes), dtype=np.float32)
    return LinearHead(prototypes.T, None, bias, prototypes, 0.0, calibration.NAMES)


def few_shot_head(
    labels: Sequence[Matrix], examples: Sequence[Matrix], texts: Sequence[Sequence[str]]
) -> LinearHead:
    """A head fitted to a few examples; each label's name counts as one example more.

    Args:
        labels: For each label float32 [K, D], the vectors of its phrasings.
        examples: For each label float32 [E, D]; E may be 0 and may differ between labels.
        texts: For each label the E examples themselves.

    Raises:
        ValueError: as `names_head`, or the examples are not of as many labels and dimensions, or
            not as many as their texts.
    """
    names = _name_vectors(labels)
    _check_examples(examples, texts, names)
    counts = np.array([len(matrix) for matrix in examples])
    if not counts.any():
        return names_head(labels)
    order = np.arange(len(names))
    targets = np.concatenate([order, np.repeat(order, counts)])
    # a label with many examples must not win because of that alone
    balance = (counts.mean() + 1) / (counts + 1)
    linear = fit_logistic(
        _design(names, examples, texts),
        targets,
        balance[targets],
        len(names),
        penalty=PENALTY,
        iterations=ITERATIONS,
    )
    dimensions = names.shape[1]
    sums = [name + matrix.sum(axis=0) for name, matrix in zip(names, examples, strict=True)]
    return LinearHead(
        linear.weights[:dimensions],
        WORD_WEIGHT * linear.weights[dimensions:],
        linear.bias,
        _unit(np.stack(sums)),
        float(counts.mean()),
        calibration.FEW_SHOT,
    )


def predicate_probability(text: Matrix, statement: Matrix) -> float:
    """How likely it is that a statement is true of a text, by their cosine.

    Weak: a cosine tells that both are about the same thing, and hardly sees a negation. Use an NLI
    model where the answer matters.

    Args:
        text: float32 [D], unit length.
        statement: float32 [D], unit length.

    Raises:
        ValueError: they are not two vectors of the same dimensions.
    """
    if text.ndim != 1 or text.shape != statement.shape:
        raise ValueError(
            f"a text of the shape {text.shape} and a statement of {statement.shape}; give two "
            "vectors of the same dimensions"
        )
    value = calibration.PREDICATE_SLOPE * (float(text @ statement) - calibration.PREDICATE_MIDPOINT)
    return calibration.sigmoid(value)


def _design(names: Matrix, examples: Sequence[Matrix], texts: Sequence[Sequence[str]]) -> Matrix:
    """Vectors and words side by side, names before examples, float32 [N, D + W]."""
    dimensions = names.shape[1]
    # a name has no words of its own here: they may be a code, and do not help where they are not
    design = np.zeros((len(names) + sum(map(len, texts)), dimensions + WORD_FEATURES), np.float32)
    design[:, :dimensions] = np.concatenate([names, *examples])
    words = word_features([text for group in texts for text in group])
    np.multiply(words, WORD_WEIGHT, out=design[len(names) :, dimensions:])
    return design


def _name_vectors(labels: Sequence[Matrix]) -> Matrix:
    """The direction of the mean of each label's phrasings, float32 [L, D]."""
    if len(labels) < 2:
        raise ValueError(f"{len(labels)} labels; give two or more to choose between")
    dimensions = labels[0].shape[-1] if labels[0].ndim else 0
    for index, matrix in enumerate(labels):
        _check_matrix(matrix, f"label {index}", dimensions)
        if len(matrix) == 0:
            raise ValueError(f"label {index} has no vector; give one or more phrasings")
    return _unit(np.stack([matrix.mean(axis=0) for matrix in labels]))


def _unit(vectors: Matrix) -> Matrix:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # vectors that cancel out leave no direction: such a label is near nothing
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def _check_matrix(matrix: Matrix, what: str, dimensions: int) -> None:
    if matrix.ndim != 2 or matrix.shape[1] != dimensions:
        raise ValueError(
            f"{what} of the shape {matrix.shape}; give rows of {dimensions} dimensions"
        )


def _check_examples(
    examples: Sequence[Matrix], texts: Sequence[Sequence[str]], names: Matrix
) -> None:
    if not len(examples) == len(texts) == len(names):
        raise ValueError(
            f"examples of {len(examples)} and their texts of {len(texts)} labels for {len(names)} "
            "labels; give one matrix and its texts a label, of zero rows where there are no "
            "examples"
        )
    for index, (matrix, group) in enumerate(zip(examples, texts, strict=True)):
        _check_matrix(matrix, f"examples of label {index}", names.shape[1])
        _check_texts(group, matrix, f" of the examples of label {index}")


def _check_texts(texts: Sequence[str], vectors: Matrix, whose: str) -> None:
    if len(texts) != len(vectors):
        raise ValueError(
            f"{len(texts)} texts for {len(vectors)} vectors{whose}; give the texts that the "
            "vectors are of"
        )
