"""Intervals for means of paired days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
Figures = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of two policies' costs on the same days.

    Attributes:
        mean: Ratio of the mean costs.
        low: Lower end of the 95 % interval.
        high: Upper end.
        geometric: Geometric mean of the daily ratios, on which overloaded days weigh no more.
    """

    mean: float
    low: float
    high: float
    geometric: float


def paired_ratio(
    costs: Sequence[float], base: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES
) -> Ratio:
    """Ratio of mean costs, days resampled in pairs (percentile bootstrap).

    Args:
        costs: Of one policy, a day each.
        base: Of the other, the same days in the same order.
        seed: Of the resampling.
        resamples: How many.

    Raises:
        ValueError: the lists differ in length or are empty, or a base is not above 0.
    """
    own, other = np.asarray(costs, dtype=float), np.asarray(base, dtype=float)
    if own.shape != other.shape or not len(own):
        raise ValueError(f"{len(own)} costs and {len(other)} to compare with; give the same days")
    if other.min() <= 0 or own.min() <= 0:
        raise ValueError("a day cost nothing, so no ratio can be taken; leave it out of both")
    random = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for start in range(0, resamples, 500):
        size = min(500, resamples - start)
        rows = random.integers(0, len(own), (size, len(own)))
        ratios[start : start + size] = own[rows].sum(axis=1) / other[rows].sum(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Ratio(
        float(own.sum() / other.sum()),
        float(low),
        float(high),
        float(np.exp(np.mean(np.log(own / other)))),
    )


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Figures) -> Interval:
        """From a figure (first) and what it is on resampled days (all others)."""
        low, high = np.percentile(values[1:], [2.5, 97.5])
        return cls(float(values[0]), float(low), float(high))


class Resampling:
    """Days drawn again and again with replacement: the same draws for all that is compared.

    `means` gives arrays whose first element is the mean itself, and whose others are the means of
    the resampled days. So a formula of such arrays (a ratio, a difference, a share of a gap) is
    written once, and `Interval.of` its result is the figure with its paired bootstrap.

    Args:
        days: How many there are.
        seed: Of the draws.
        resamples: How many.

    Raises:
        ValueError: there are no days.
    """

    def __init__(self, days: int, *, seed: int = 0, resamples: int = RESAMPLES) -> None:
        if days < 1:
            raise ValueError(f"{days} days cannot be resampled; give at least one")
        self.days = days
        rows = np.random.default_rng(seed).integers(0, days, (resamples, days))
        rows += np.arange(resamples)[:, None] * days
        counts = np.bincount(rows.ravel(), minlength=resamples * days)
        self._weights = counts.reshape(resamples, days) / days

    def means(self, values: Sequence[float] | Figures) -> Figures:
        """Of a figure of each day; of shape (1 + resamples,).

        Raises:
            ValueError: the figures are of other days.
        """
        column = np.asarray(values, dtype=float)
        if column.shape != (self.days,):
            raise ValueError(f"{len(column)} figures for {self.days} days; give the same days")
        return np.concatenate([[column.mean()], self._weights @ column])
