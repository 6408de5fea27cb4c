"""Chooses among policies by what they cost on days of validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rl.learning.labels import Labels
from rl.neural import Learned
from rl.policy_file import Guard, PolicyFile
from rl.simulator import Policy, simulate
from rl.work import Day

RIDGE = 1e-3  # added to the covariance: some features never differ
FARTHEST = 0.999  # share of training's contexts that are near, before the limit is doubled
DEARER = 1.0  # by how much a point of machines' money above the limit counts as cost

Days = Mapping[str, Sequence[Day]]
Costs = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A policy on days of validation, each figure by that of the base.

    Attributes:
        ratios: Of the mean costs, by regime.
        dollars: Of the money for machines, all regimes' mean.
        met: Points of deadlines kept above the base's, all regimes' mean.
        score: By which policies are compared; lower is better.
    """

    ratios: dict[str, float]
    dollars: float
    met: float
    score: float

    def __str__(self) -> str:
        parts = " ".join(f"{name} {ratio:.3f}" for name, ratio in self.ratios.items())
        return f"{parts}; machines {self.dollars:.3f}, deadlines {100 * self.met:+.1f} points"


def measured(policy: Policy, days: Days) -> Costs:
    """Of each regime (days, 3): cost, dollars for machines, share of deadlines kept."""
    found = {}
    for name, some in days.items():
        outcomes = [simulate(day, policy) for day in some]
        found[name] = np.array([[one.cost, one.dollars, one.met] for one in outcomes])
    return found


def verdict(own: Costs, base: Costs, most_dollars: float) -> Verdict:
    """Compare what `measured` found."""
    means = {name: own[name].mean(axis=0) for name in own}
    bases = {name: base[name].mean(axis=0) for name in own}
    ratios = {name: float(means[name][0] / bases[name][0]) for name in own}
    dollars = float(np.mean([means[name][1] / max(bases[name][1], 1e-9) for name in own]))
    met = float(np.mean([means[name][2] - bases[name][2] for name in own]))
    score = float(np.mean(list(ratios.values()))) + DEARER * max(0.0, dollars - most_dollars)
    return Verdict(ratios, dollars, met, score)


def judged(policy: PolicyFile, days: Days, base: Costs, most_dollars: float) -> Verdict:
    """A policy by its base's costs."""
    return verdict(measured(Learned(policy), days), base, most_dollars)


def guard_of(labels: Labels) -> Guard:
    """What views of training look like."""
    context = labels.context.astype(np.float64)
    options = labels.options[labels.there]
    low = np.concatenate([labels.context.min(axis=0), options.min(axis=0)])
    high = np.concatenate([labels.context.max(axis=0), options.max(axis=0)])
    mean = context.mean(axis=0)
    off = context - mean
    covariance = off.T @ off / len(off) + RIDGE * np.eye(off.shape[1])
    precision = np.linalg.inv(covariance)
    distances = np.einsum("ni,ij,nj->n", off, precision, off, optimize=True)
    return Guard(
        low=low,
        high=high,
        mean=mean.astype(np.float32),
        precision=precision.astype(np.float32),
        limit=2.0 * float(np.quantile(distances, FARTHEST)),
    )
