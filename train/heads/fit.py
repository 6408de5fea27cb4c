"""A linear classifier over vectors, and the temperature that makes its probabilities honest. Pure.

Shapes: N texts, D dimensions, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

Floats = npt.NDArray[np.floating]

PENALTIES = (0.2, 0.02, 0.002)
"""Of the squared weights; the inverse of scikit-learn's `C`. The best on other texts is taken."""
BINS = 15
_ITERATIONS = 60
_TEMPERATURES = (1 / 20, 20.0)
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class Linear:
    """Logits of a vector: `weight @ vector + bias`.

    Attributes:
        weight: float32 [L, D].
        bias: float32 [L].
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]

    def logits(self, vectors: Floats) -> npt.NDArray[np.float64]:
        """float64 [N, L] of [N, D]."""
        found: npt.NDArray[np.float64] = vectors.astype(np.float64) @ self.weight.T + self.bias
        return found


def fit_linear(
    vectors: Floats, targets: Floats, penalty: float, start: Linear | None = None
) -> Linear:
    """Minimise the cross-entropy to the targets plus `penalty / 2` times the squared weights.

    Args:
        vectors: [N, D], of length 1.
        targets: [N, L], probabilities of each text's labels: a one and zeros, or a teacher's.
        penalty: Of the weights; the bias has none.
        start: Where to begin: what another penalty has led to; None: at zero.
    """
    given = torch.from_numpy(np.ascontiguousarray(vectors, np.float64))
    center = given.mean(0)
    # the penalty must not act on what all vectors share
    given = given - center
    wanted = torch.from_numpy(np.ascontiguousarray(targets, np.float64))
    weight = torch.zeros(wanted.shape[1], given.shape[1], dtype=torch.float64)
    bias = torch.zeros(wanted.shape[1], dtype=torch.float64)
    if start is not None:
        weight = torch.from_numpy(start.weight.astype(np.float64))
        bias = torch.from_numpy(start.bias.astype(np.float64)) + weight @ center
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_ITERATIONS,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(given, weight, bias), wanted, reduction="sum")
        loss = loss + 0.5 * penalty * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        shifted = bias - weight @ center
    return Linear(weight.detach().numpy().astype(np.float32), shifted.numpy().astype(np.float32))


def cross_entropy(logits: Floats, targets: Floats, temperature: float = 1.0) -> float:
    """Mean over texts of the cross-entropy to the targets [N, L], logits [N, L]."""
    return float(-(targets * log_softmax(logits / temperature)).sum(1).mean())


def fit_temperature(logits: Floats, targets: Floats) -> float:
    """The temperature of the least cross-entropy (Guo et al. 2017, arXiv 1706.04599).

    The cross-entropy has one minimum over the inverse of the temperature, in which it is convex;
    it is found by sections.

    Args:
        logits: [N, L].
        targets: [N, L], probabilities.
    """
    low, high = (math.log(1 / each) for each in reversed(_TEMPERATURES))

    def at(log_inverse: float) -> float:
        return cross_entropy(logits, targets, math.exp(-log_inverse))

    for _ in range(60):
        width = _GOLDEN * (high - low)
        left, right = high - width, low + width
        if at(left) < at(right):
            high = right
        else:
            low = left
    return math.exp(-(low + high) / 2)


def calibration_error(probabilities: Floats, answers: Sequence[int] | Floats) -> float:
    """Expected calibration error of the likeliest label over bins of equal width (same source).

    Args:
        probabilities: [N, L].
        answers: [N], the right label of each text.
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == np.asarray(answers)
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    """Log-probabilities of each row, float64 [N, L]."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    found: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return found
