"""Multinomial logistic regression on a few examples, small enough to fit inside a request.

Shapes: N examples, D embedding dimensions, L labels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Objective = Callable[[Floats], tuple[float, Floats]]

_MEMORY = 8
_ARMIJO = 1e-4
_SHORTEST_STEP = 1e-4
_CURVATURE = 1e-10


@dataclass(frozen=True, slots=True)
class Linear:
    """Logits of a text: `text @ weights + bias`.

    Attributes:
        weights: float32 [D, L].
        bias: float32 [L].
    """

    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


def fit_logistic(
    vectors: Floats,
    targets: npt.NDArray[np.intp],
    sample_weights: Floats,
    label_count: int,
    *,
    penalty: float,
    iterations: int,
) -> Linear:
    """Minimise the weighted cross-entropy plus `penalty / 2` times the squared weights.

    The vectors are centred first, so that the penalty does not act on what all of them share. The
    bias is not penalised.

    Args:
        vectors: [N, D], unit length.
        targets: [N], the label's index of each.
        sample_weights: [N].
        label_count: L.
        penalty: Of the squared weights; the inverse of scikit-learn's `C`.
        iterations: Of L-BFGS. Few are enough, and stopping early is itself a mild penalty.
    """
    center = vectors.mean(axis=0)
    # a last column of ones carries the bias
    design = np.ones((len(vectors), vectors.shape[1] + 1), dtype=np.float32)
    design[:, :-1] = vectors - center
    shape = (design.shape[1], label_count)
    penalties = np.full((shape[0], 1), penalty, dtype=np.float32)
    penalties[-1] = 0
    rows = np.arange(len(targets))
    weights_column = sample_weights.astype(np.float32)[:, None]

    def objective(point: Floats) -> tuple[float, Floats]:
        matrix = point.reshape(shape)
        errors, losses = _errors(design @ matrix, rows, targets)
        errors *= weights_column
        penalised = penalties * matrix
        value = float(losses @ sample_weights) + 0.5 * float(np.vdot(matrix, penalised))
        return value, (design.T @ errors + penalised).ravel()

    start = np.zeros(shape[0] * shape[1], dtype=np.float32)
    matrix = minimise(objective, start, iterations).reshape(shape).astype(np.float32)
    return Linear(matrix[:-1], matrix[-1] - center.astype(np.float32) @ matrix[:-1])


def _errors(
    logits: npt.NDArray[np.float32], rows: npt.NDArray[np.intp], targets: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.float32], Floats]:
    """Softmax minus one-hot [N, L], and the cross-entropy of each row [N]; reuses `logits`."""
    logits -= logits.max(axis=1, keepdims=True)
    of_target = logits[rows, targets].astype(np.float64)
    np.exp(logits, out=logits)
    sums = logits.sum(axis=1, keepdims=True)
    logits /= sums
    logits[rows, targets] -= 1
    return logits, np.log(sums[:, 0].astype(np.float64)) - of_target


def minimise(objective: Objective, start: Floats, iterations: int) -> Floats:
    """L-BFGS with step halving (Nocedal and Wright, Numerical Optimization, algorithm 7.4).

    Args:
        objective: The value and the gradient at a point.
        start: Where to begin; the point returned has its shape and type.
        iterations: At most this many steps; fewer where no step lowers the value.
    """
    point = start
    value, gradient = objective(point)
    history: deque[tuple[Floats, Floats, float]] = deque(maxlen=_MEMORY)
    for _ in range(iterations):
        direction = _direction(gradient, history)
        slope = float(np.vdot(gradient, direction))
        # nothing is known of the scale at first: a step of unit length
        step = 1.0 if history else 1.0 / max(float(np.linalg.norm(direction)), 1e-12)
        moved, new_value, new_gradient = point, value, gradient
        while step > _SHORTEST_STEP:
            moved = point + np.asarray(step, dtype=point.dtype) * direction
            new_value, new_gradient = objective(moved)
            if new_value <= value + _ARMIJO * step * slope:
                break
            step /= 2
        else:
            return point
        shift, change = moved - point, new_gradient - gradient
        curvature = float(np.vdot(shift, change))
        if curvature > _CURVATURE * float(np.vdot(change, change)):
            history.append((shift, change, curvature))
        point, value, gradient = moved, new_value, new_gradient
    return point


def _direction(gradient: Floats, history: deque[tuple[Floats, Floats, float]]) -> Floats:
    """The two-loop recursion: minus the estimated inverse Hessian times the gradient."""
    direction = -gradient
    factors: list[float] = []
    for shift, change, curvature in reversed(history):
        factors.append(float(np.vdot(shift, direction)) / curvature)
        direction -= np.asarray(factors[-1], dtype=direction.dtype) * change
    if history:
        _, change, curvature = history[-1]
        scale = curvature / float(np.vdot(change, change))
        direction *= np.asarray(scale, dtype=direction.dtype)
    for (shift, change, curvature), factor in zip(history, reversed(factors), strict=True):
        rest = factor - float(np.vdot(change, direction)) / curvature
        direction += np.asarray(rest, dtype=direction.dtype) * shift
    return direction
