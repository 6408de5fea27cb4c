"""Chooses among policies by what they cost on days of validation, and confirms the choice.

The best of some is better than it will be: it was lucky too. So what was chosen meets days on which
nothing was chosen, and is kept only if it costs less than its base there beyond doubt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rl.neural import Learned
from rl.parameters import policy_of
from rl.policy_file import PolicyFile
from rl.simulator import Policy, simulate
from rl.statistics import Interval, Resampling
from rl.work import Day

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


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A policy on fresh days.

    Attributes:
        ratio: Its cost by its base's, the mean over regimes, with its 95 % interval.
        days: Of each regime.
    """

    ratio: Interval
    days: int

    @property
    def holds(self) -> bool:
        """Whether it costs less beyond doubt."""
        return self.ratio.high < 1.0

    def __str__(self) -> str:
        found = self.ratio
        return (
            f"{found.mean:.4f} [{found.low:.4f}, {found.high:.4f}] of its base's cost on "
            f"{self.days} fresh days of each regime"
        )


def confirmation(own: Costs, base: Costs) -> Confirmation:
    """Compare what `measured` found, days resampled in pairs within each regime."""
    ratios = []
    for number, name in enumerate(own):
        days = Resampling(len(own[name]), seed=number)
        ratios.append(days.means(own[name][:, 0]) / days.means(base[name][:, 0]))
    count = min(map(len, own.values()))
    return Confirmation(Interval.of(np.mean(ratios, axis=0)), count)


def confirmed(policy: PolicyFile, days: Days) -> Confirmation:
    """A policy and its base on the same fresh days."""
    base = measured(policy_of(policy.parameters), days)
    return confirmation(measured(Learned(policy), days), base)
