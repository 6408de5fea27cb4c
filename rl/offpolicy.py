"""What another policy would have saved, from decisions that were logged by the one in use.

Per decision and doubly robust (Dudik, Langford, Li 2011, ICML): a model of the reward fills in what
was not tried, and the decisions where the same was done correct it by how rare they were. Only
decisions that the two policies take differently say anything of their difference, so weights are
normalised over those alone (SNIPS: Swaminathan, Joachims 2015, NeurIPS), and their effective sample
size counts, not that of all rows. Weights are clipped where options are rarer than exploration
makes them; what is cut off is not corrected, so above a share of it nothing is said. Decisions of
one workflow are not independent, and the model is not known but fitted: the interval is that of a
bootstrap which draws whole workflows and fits the model anew each time. Where there is not enough
to say anything the answer is "no verdict", with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ironcliw.errors import DataError

CLIP = 100.0
"""Of three options one is tried in a hundredth of all cases, at three percent of exploration."""
MOST_CLIPPED = 0.1
LEAST_EFFECTIVE = 50.0
MOST_UNSUPPORTED = 0.5
RESAMPLES = 200
_RIDGE = 3.0
_FOLDS = 2
_FAR = 5.0
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
        effective: Effective sample size of the decisions that the two would take differently; of
            the two policies' weights there, the lesser.
        decisions: Used.
        differing: Of them, those that the two would take differently.
        matches: Of those, where the policy's own choice was taken.
        clipped: Share of the weight of those that was cut off.
        no_verdict: Why nothing can be said; empty: something can.
    """

    mean: float
    low: float
    high: float
    effective: float
    decisions: int
    differing: int
    matches: int
    clipped: float = 0.0
    no_verdict: str = ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the gain; None: no verdict."""
        return None if self.no_verdict else (self.low, self.high)


def gain_of(rows: Decisions, resamples: int = RESAMPLES) -> Gain:
    """What `chosen` saves against `base`.

    A choice that could not have been taken counts as the base's: nothing is known of it.

    Args:
        rows: What was logged.
        resamples: Of the bootstrap.
    """
    chosen = np.where(rows.supported, rows.chosen, rows.base)
    differs = chosen != rows.base
    asked = rows.chosen != rows.base
    own, other = (_rarity(rows, one)[differs] for one in (chosen, rows.base))
    known = Gain(
        0.0, 0.0, 0.0,
        effective=min(effective_size(np.minimum(one, CLIP)) for one in (own, other)),
        decisions=len(rows.action),
        differing=int(differs.sum()),
        matches=int((own > 0).sum()),
        clipped=max(clipped_share(own), clipped_share(other)),
    )  # fmt: skip
    reason = _no_verdict(known, int(asked.sum()), int((asked & ~rows.supported).sum()))
    if reason:
        return replace(known, no_verdict=reason)
    estimate = _Estimate(rows, chosen, differs, np.minimum(own, CLIP), np.minimum(other, CLIP))
    mean = estimate.of(np.ones(len(rows.action)))
    error = _bootstrapped(estimate, rows.cluster, resamples)
    return replace(known, mean=mean, low=mean - _Z * error, high=mean + _Z * error)


def effective_size(weights: Floats) -> float:
    """(sum of weights) squared by the sum of their squares: how many equal ones they are worth."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def clipped_share(weights: Floats) -> float:
    """Of the sum of weights, what lies above the clip."""
    total = float(weights.sum())
    return float(np.maximum(weights - CLIP, 0.0).sum()) / total if total > 0 else 0.0


def _no_verdict(known: Gain, asked: int, unsupported: int) -> str:
    if asked and unsupported > MOST_UNSUPPORTED * asked:
        return (
            f"{unsupported} of the {asked} decisions that it would take differently could not "
            "have been taken so: what it wants costs over a cent more than the choice in use"
        )
    if not known.differing:
        return f"it would take none of {known.decisions} decisions differently"
    if known.effective < LEAST_EFFECTIVE:
        return (
            f"the {known.differing} decisions that it would take differently are worth "
            f"{known.effective:.0f} of equal weight, and {LEAST_EFFECTIVE:.0f} are needed"
        )
    if known.clipped > MOST_CLIPPED:
        return (
            f"{known.clipped:.0%} of the weight of what was tried lies beyond {CLIP:.0f} times, "
            f"and is not counted; {MOST_CLIPPED:.0%} may be: try more by routing.exploration"
        )
    return ""


def _rarity(rows: Decisions, chosen: npt.NDArray[np.int64]) -> Floats:
    """Importance weights of a deterministic policy, of shape (n,)."""
    found: Floats = np.where(rows.action == chosen, 1.0 / rows.propensity, 0.0)
    return found


class _Estimate:
    """The gain as a function of how often each row counts.

    Args:
        rows: What was logged, n of them.
        chosen: By the policy in question, of shape (n,).
        differs: Where that is not the base's choice, of shape (n,).
        own: Its weights at those rows, m of them.
        other: The base's, likewise.
    """

    def __init__(
        self,
        rows: Decisions,
        chosen: npt.NDArray[np.int64],
        differs: npt.NDArray[np.bool_],
        own: Floats,
        other: Floats,
    ) -> None:
        at = np.arange(len(rows.action))
        self._taken = rows.features[at, rows.action]
        self._reward = rows.reward
        self._differs = differs
        self._own, self._other = own, other
        inside = at[differs]
        actions = (rows.action[differs], chosen[differs], rows.base[differs])
        features = [rows.features[inside, one] for one in actions]
        self._folds = [self._fold(rows.cluster % _FOLDS == one, features) for one in range(_FOLDS)]

    def of(self, counts: Floats) -> float:
        """USD a decision, with rows that count so often, of shape (n,)."""
        here = counts[self._differs]
        taken, chosen, base = self._predicted(counts)
        off = self._reward[self._differs] - taken
        own = _mean(chosen, here) + _mean(off, here * self._own)
        other = _mean(base, here) + _mean(off, here * self._other)
        return (own - other) * float(here.sum()) / float(counts.sum())

    def _fold(self, inside: npt.NDArray[np.bool_], features: Sequence[Floats]) -> _Fold:
        outside = ~inside
        if not outside.any() or not inside.any():
            outside = np.ones(len(inside), dtype=np.bool_)  # all are one cluster: none to hold out
        mean = self._taken[outside].mean(axis=0)
        scale = self._taken[outside].std(axis=0) + 1e-6
        where = inside[self._differs]
        # far from what was fitted the line is not believed
        others = [np.clip((one[where] - mean) / scale, -_FAR, _FAR) for one in features]
        return _Fold(outside, where, (self._taken[outside] - mean) / scale, others)

    def _predicted(self, counts: Floats) -> tuple[Floats, Floats, Floats]:
        """Rewards of what was taken, chosen, and the base's, where they differ: each (m,).

        By ridge regression, fitted on the other half of the clusters.
        """
        found = np.zeros((3, int(self._differs.sum())))
        for fold in self._folds:
            weights, reward = counts[fold.outside], self._reward[fold.outside]
            total = max(float(weights.sum()), 1e-12)
            centre, middle = weights @ reward / total, weights @ fold.design / total
            scaled = fold.design * weights[:, None]
            gram = scaled.T @ fold.design - total * np.outer(middle, middle)
            gram += _RIDGE * np.eye(len(gram))
            slope = np.linalg.solve(gram, scaled.T @ (reward - centre))
            for row, others in zip(found, fold.others, strict=True):
                row[fold.where] = centre + (others - middle) @ slope
        return found[0], found[1], found[2]


@dataclass(frozen=True, slots=True)
class _Fold:
    """A part of the rows that is predicted from the others.

    Attributes:
        outside: The others, of shape (n,).
        where: Of the rows that differ, those of this part, of shape (m,).
        design: Standardised features of what the others took, of shape (any, d).
        others: Of this part: of what was taken, chosen, and the base's, each (any, d).
    """

    outside: npt.NDArray[np.bool_]
    where: npt.NDArray[np.bool_]
    design: Floats
    others: Sequence[Floats]


def _mean(values: Floats, weights: Floats) -> float:
    """Weighted; 0 where nothing weighs anything."""
    total = float(weights.sum())
    return float(values @ weights) / total if total > 0 else 0.0


def _bootstrapped(estimate: _Estimate, clusters: npt.NDArray[np.int64], resamples: int) -> float:
    """Standard error: clusters drawn with replacement, everything estimated anew each time."""
    names, index = np.unique(clusters, return_inverse=True)
    random, share = np.random.default_rng(0), np.full(len(names), 1.0 / len(names))
    draws = (random.multinomial(len(names), share)[index] for _ in range(resamples))
    return float(np.std([estimate.of(one.astype(np.float64)) for one in draws], ddof=1))


def fold_of(names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Numbers for names, such as workflows: equal names get equal numbers."""
    _, index = np.unique(np.array(names), return_inverse=True)
    return index.astype(np.int64)
