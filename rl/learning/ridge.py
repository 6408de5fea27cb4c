"""A learned cost that is linear in what an option does to others, fitted in closed form.

Labels deviate by ten times what they tell, so what is fitted has to be small: some thirty numbers,
drawn towards 0 as far as days that were left out ask for (ridge regression).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rl.learning.labels import Labels

STRENGTHS = tuple(10.0**power for power in range(-3, 4))
"""Of the pull towards 0, in variances of a feature times the number of labels."""
_FOLDS = 5
_LEAST_DEVIATION = 1e-9  # USD; a feature that differs less tells nothing

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fit:
    """What was fitted.

    Attributes:
        weights: Of `rl.effects.EFFECTS`: what a unit costs beyond what the base believes.
        strength: Of the pull, out of `STRENGTHS`; infinite if nothing is better than 0.
        explained: Share of the labels' squares that is explained on days that were left out.
    """

    weights: Numbers
    strength: float
    explained: float


def fit_effects(labels: Labels, target: Numbers) -> Fit:
    """The weights by which options cost what labels say.

    Args:
        labels: Of decisions (N), of S slots; slot 0 is the policy's own choice.
        target: (N, S), USD that each slot costs over slot 0 beyond what the base believes.
    """
    rows, slots = np.nonzero(labels.there[:, 1:])
    x = (labels.effects[rows, slots + 1] - labels.effects[rows, 0]).astype(np.float64)
    y = target[rows, slots + 1]
    scale = np.sqrt(np.mean(x * x, axis=0))
    told = scale > _LEAST_DEVIATION
    weights = np.zeros(x.shape[1])
    if not told.any():
        return Fit(weights, float("inf"), 0.0)
    x = x[:, told] / scale[told]
    strength, explained = _best(x, y, labels.day[rows])
    if explained > 0:
        weights[told] = _solve(x, y, strength) / scale[told]
    else:
        strength = float("inf")
    return Fit(weights, strength, max(explained, 0.0))


def _best(x: Numbers, y: Numbers, day: npt.NDArray[np.int64]) -> tuple[float, float]:
    """The strength that explains most on days that are left out, and how much."""
    fold = np.unique(day, return_inverse=True)[1] % _FOLDS
    total = float(y @ y)
    errors = dict.fromkeys(STRENGTHS, 0.0)
    for number in range(_FOLDS):
        out = fold == number
        for strength in STRENGTHS:
            if out.all() or not out.any():
                errors[strength] += float(y[out] @ y[out])
                continue
            left = y[out] - x[out] @ _solve(x[~out], y[~out], strength)
            errors[strength] += float(left @ left)
    best = min(STRENGTHS, key=errors.__getitem__)
    return best, 1.0 - errors[best] / total if total > 0 else 0.0


def _solve(x: Numbers, y: Numbers, strength: float) -> Numbers:
    pulled = x.T @ x + strength * len(x) * np.eye(x.shape[1])
    return np.asarray(np.linalg.solve(pulled, x.T @ y), dtype=np.float64)
