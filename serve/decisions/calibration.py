"""From cosines and logits to probabilities that mean what they say.

Both calibrations are log-linear in what a head knows without having seen an answer: how many
labels and examples there are, and how near the text is to them.

    scale of the logits   exp(w . [1, log L, log(1 + E), nearest])
    in scope              sigmoid(v . [1, log L, log(1 + E), nearest, mean])

Shapes: B texts, L labels; E is the mean number of examples a label, `nearest` and `mean` are the
largest and the mean cosine of a text to the labels' prototypes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The weights of both formulas, in the order of the module's head.

    Attributes:
        scale: Four weights.
        in_scope: Five weights.
    """

    scale: tuple[float, float, float, float]
    in_scope: tuple[float, float, float, float, float]

    def probabilities(self, logits: Floats, cosines: Floats, examples: float) -> Floats:
        """Calibrated probabilities [B, L] of logits [B, L]."""
        ones, labels, shown, near = self.scale
        fixed = ones + labels * math.log(cosines.shape[1]) + shown * math.log1p(examples)
        # a request has one text, and a float costs a tenth of an array of one
        scales = [math.exp(fixed + near * value) for value in cosines.max(axis=1).tolist()]
        return softmax(np.array(scales)[:, None] * logits)

    def scope(self, cosines: Floats, examples: float) -> Floats:
        """Probability [B] that a text belongs to any of the labels."""
        ones, labels, shown, near, mean = self.in_scope
        count = cosines.shape[1]
        fixed = ones + labels * math.log(count) + shown * math.log1p(examples)
        nearest, sums = cosines.max(axis=1).tolist(), cosines.sum(axis=1).tolist()
        return np.array(
            [
                sigmoid(fixed + near * value + mean * total / count)
                for value, total in zip(nearest, sums, strict=True)
            ]
        )


def scale_features(cosines: Floats, examples: float) -> Floats:
    """What `Calibration.probabilities` weighs, [B, 4]; to fit it."""
    features = np.empty((len(cosines), 4))
    features[:, 0] = 1.0
    features[:, 1] = np.log(cosines.shape[1])
    features[:, 2] = np.log1p(examples)
    features[:, 3] = cosines.max(axis=1)
    return features


def scope_features(cosines: Floats, examples: float) -> Floats:
    """What `Calibration.scope` weighs, [B, 5]; to fit it."""
    return np.column_stack([scale_features(cosines, examples), cosines.mean(axis=1)])


def softmax(logits: Floats) -> Floats:
    """Probabilities [B, L] of each row."""
    powers: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers


def sigmoid(value: float) -> float:
    """The logistic function, without overflow."""
    return 0.5 + 0.5 * math.tanh(0.5 * value)


# Everything below is printed by `python -m benchmarks.fit_decisions`: all-MiniLM-L6-v2, CLINC150's
# train and oos_train splits, random label sets of 2 to 150 labels. Other models and languages have
# other cosines: their order is right, the probabilities are then a guess.
NAMES = Calibration(scale=(3.36, 0.03, 0.0, -0.94), in_scope=(-3.728, -0.256, 0.0, 14.1, 8.859))
FEW_SHOT = Calibration(
    scale=(2.134, -0.109, -0.131, -0.955), in_scope=(-4.007, -0.36, -0.596, 17.283, 0.366)
)
IN_SCOPE_THRESHOLD = 0.626
PREDICATE_SLOPE = 19.81
PREDICATE_MIDPOINT = 0.242
