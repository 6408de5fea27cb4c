"""What another policy would have saved, from decisions that were logged by the one in use.

Per decision and doubly robust (Dudik, Langford, Li 2011, ICML): a model of the reward fills in what
was not tried, and the decisions where the same was done correct it by how rare they were. Weights
are clipped at 20 and normalised by their sum (SNIPS: Swaminathan, Joachims 2015, NeurIPS), so the
estimate is a little biased towards the model, and its variance bounded. Decisions of one workflow
are not independent: intervals are those of clusters. Where there is not enough to say anything the
answer is "no verdict", with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ironcliw.errors import DataError

CLIP = 20.0
LEAST_EFFECTIVE = 200.0
LEAST_MATCHES = 10
MOST_UNSUPPORTED = 0.5
_RIDGE = 3.0
_FOLDS = 2
_Z = 1.96

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decisions:
    """Logged decisions, n of them, each among at most A actions.

    Attributes:
        features: Of each action, of shape (n, A, d); of those that were refused: anything.
        action: Taken, of shape (n,).
        propensity: With which it was taken, of shape (n,).
        reward: USD, negative for costs, of shape (n,).
        chosen: By the policy in question, of shape (n,).
        base: By the one that it is compared with, of shape (n,).
        supported: Whether `chosen` could have been taken at all, of shape (n,).
        cluster: Decisions of one number depend on each other, of shape (n,).
    """

    features: Floats
    action: npt.NDArray[np.int64]
    propensity: Floats
    reward: Floats
    chosen: npt.NDArray[np.int64]
    base: npt.NDArray[np.int64]
    supported: npt.NDArray[np.bool_]
    cluster: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.action)
        for name in ("features", "propensity", "reward", "chosen", "base", "supported", "cluster"):
            if len(getattr(self, name)) != count:
                raise DataError(f"{count} actions and {len(getattr(self, name))} of {name}")
        for name in ("features", "propensity", "reward"):
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(f"{name} of the logged decisions holds what is no number")
        if count and not (0 < self.propensity.min() and self.propensity.max() <= 1):
            raise DataError("a propensity of the logged decisions is no probability above 0")


@dataclass(frozen=True, slots=True)
class Gain:
    """What a policy saves a decision against another, in USD.

    Attributes:
        mean: Estimate; 0 where there is no verdict.
        low: Lower end of the 95 % interval.
        high: Upper end.
        effective: Effective sample size of its weights.
        decisions: Used.
        differing: Of them, those that the two would take differently.
        matches: Of those, where the policy's own choice was taken.
        no_verdict: Why nothing can be said; empty: something can.
    """

    mean: float
    low: float
    high: float
    effective: float
    decisions: int
    differing: int
    matches: int
    no_verdict: str = ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the gain; None: no verdict."""
        return None if self.no_verdict else (self.low, self.high)


def gain_of(rows: Decisions) -> Gain:
    """What `chosen` saves against `base`.

    A choice that could not have been taken counts as the base's: nothing is known of it.
    """
    chosen = np.where(rows.supported, rows.chosen, rows.base)
    differs = chosen != rows.base
    asked = rows.chosen != rows.base
    matches = int((differs & (rows.action == chosen)).sum())
    weights = _weights(rows, chosen)
    effective = effective_size(weights)
    facts = (effective, len(rows.action), int(differs.sum()), matches)
    reason = _no_verdict(facts, int(asked.sum()), int((asked & ~rows.supported).sum()))
    if reason:
        return Gain(0.0, 0.0, 0.0, *facts, reason)
    model = _model(rows)
    own, ours = _robust(rows, model, chosen, weights)
    other, theirs = _robust(rows, model, rows.base, _weights(rows, rows.base))
    mean, error = own - other, _clustered_error(ours - theirs, rows.cluster)
    return Gain(mean, mean - _Z * error, mean + _Z * error, *facts)


def effective_size(weights: Floats) -> float:
    """(sum of weights) squared by the sum of their squares: how many equal ones they are worth."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def _no_verdict(facts: tuple[float, int, int, int], asked: int, unsupported: int) -> str:
    effective, _, differing, matches = facts
    if effective < LEAST_EFFECTIVE:
        return (
            f"the decisions are worth {effective:.0f} of equal weight, and "
            f"{LEAST_EFFECTIVE:.0f} are needed"
        )
    if asked and unsupported > MOST_UNSUPPORTED * asked:
        return (
            f"{unsupported} of the {asked} decisions that it would take differently could not "
            "have been taken so: what it wants costs over a cent more than the choice in use"
        )
    if matches < LEAST_MATCHES:
        return (
            f"it would take {differing} decisions differently, and only {matches} of those were "
            f"tried; {LEAST_MATCHES} are needed"
        )
    return ""


def _weights(rows: Decisions, chosen: npt.NDArray[np.int64]) -> Floats:
    """Clipped importance weights of a deterministic policy."""
    same = rows.action == chosen
    weights: Floats = np.where(same, np.minimum(1.0 / rows.propensity, CLIP), 0.0)
    return weights


def _robust(
    rows: Decisions, model: Floats, chosen: npt.NDArray[np.int64], weights: Floats
) -> tuple[float, Floats]:
    """(value a decision, each decision's part of it) of a policy."""
    at = np.arange(len(rows.action))
    predicted, off = model[at, chosen], rows.reward - model[at, rows.action]
    scale = weights / max(float(weights.mean()), 1e-12)
    correction = float((scale * off).mean())
    value = float(predicted.mean()) + correction
    # the influence of each row on the self-normalised estimate
    parts: Floats = predicted - predicted.mean() + scale * (off - correction) + value
    return value, parts


def _model(rows: Decisions) -> Floats:
    """Predicted reward of each action, of shape (n, A): ridge regression, fitted on the others."""
    count, actions, width = rows.features.shape
    at = np.arange(count)
    taken = rows.features[at, rows.action]
    found = np.zeros((count, actions))
    fold = rows.cluster % _FOLDS
    for one in range(_FOLDS):
        inside, outside = fold == one, fold != one
        if not outside.any() or not inside.any():
            outside = np.ones(count, dtype=np.bool_)  # all are one cluster: nothing to hold out
        mean, scale = taken[outside].mean(axis=0), taken[outside].std(axis=0) + 1e-6
        design = (taken[outside] - mean) / scale
        centre = float(rows.reward[outside].mean())
        gram = design.T @ design + _RIDGE * np.eye(width)
        slope = np.linalg.solve(gram, design.T @ (rows.reward[outside] - centre))
        # far from what was fitted the line is not believed
        others = np.clip((rows.features[inside] - mean) / scale, -5.0, 5.0)
        found[inside] = centre + others @ slope
    return found


def _clustered_error(parts: Floats, clusters: npt.NDArray[np.int64]) -> float:
    """Standard error of the mean of parts that depend on each other within clusters."""
    _, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, weights=parts - parts.mean())
    groups = len(sums)
    scale = groups / (groups - 1) if groups > 1 else 1.0
    return float(np.sqrt(scale * (sums**2).sum()) / len(parts))


def fold_of(names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Numbers for names, such as workflows: equal names get equal numbers."""
    _, index = np.unique(np.array(names), return_inverse=True)
    return index.astype(np.int64)
