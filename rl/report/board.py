"""All figures of a report: by regime, policy and name, and their means on resampled days."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from rl.draws import seed_of
from rl.evaluate import BASE
from rl.report.contestants import CLAIRVOYANT, LITERAL, RULE_NAMES
from rl.report.runs import Columns
from rl.statistics import Figures, Interval, Resampling

Table = Mapping[str, Mapping[str, Columns]]


@dataclass
class Board:
    """Of each regime and policy, the figures of its days.

    Attributes:
        days: Of each regime.
        all_days: By regime, then by policy.
        known_days: The first days of each regime, with the search that knows them.
        learned: Names of the policies that come from files.
        frontier: Of the days on which the value of time is varied; by regime, then by policy.
    """

    days: int
    all_days: Table
    known_days: Table
    learned: tuple[str, ...] = ()
    frontier: Table = field(default_factory=dict)
    _drawn: dict[tuple[str, int], Resampling] = field(default_factory=dict)

    @property
    def regimes(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(self.all_days)

    @property
    def policies(self) -> tuple[str, ...]:
        """Names of those that ran on all days, in order."""
        return tuple(next(iter(self.all_days.values())))

    @cached_property
    def ours(self) -> str:
        """The learned policy of the median seed; the tuned one where there is none."""
        return median_of(self, self.learned) if self.learned else BASE

    def mean(self, regime: str, policy: str, column: str) -> Figures:
        """Over all days of a regime."""
        return self._mean(self.all_days, regime, policy, column)

    def pooled(self, policy: str, column: str) -> Figures:
        """Over all days of all regimes: each has as many."""
        return self.over_regimes(lambda regime: self.mean(regime, policy, column))

    def known(self, policy: str, column: str = "cost", regime: str | None = None) -> Figures:
        """Over the days of the search, of one regime or of all."""
        if regime is not None:
            return self._mean(self.known_days, regime, policy, column)
        return self.over_regimes(lambda name: self.known(policy, column, name))

    def over_regimes(self, of: Callable[[str], Figures]) -> Figures:
        """The mean over regimes."""
        found = [of(regime) for regime in self.regimes]
        return sum(found[1:], start=found[0]) / len(found)

    def ratio(self, policy: str, regime: str | None = None, column: str = "cost") -> Interval:
        """Of a policy's figure to the base's."""
        if regime is None:
            own, base = self.pooled(policy, column), self.pooled(BASE, column)
        else:
            own, base = self.mean(regime, policy, column), self.mean(regime, BASE, column)
        # few days may all need no machine; then both cost nothing
        return Interval.of(np.where(base > 0, own / np.maximum(base, 1e-12), 1.0))

    def saving(self, policy: str, other: str) -> Interval:
        """By how much of the other's cost the policy's is lower, over all regimes."""
        return Interval.of(1.0 - self.pooled(policy, "cost") / self.pooled(other, "cost"))

    def gap_closed(self, policy: str, regime: str | None = None) -> Interval:
        """Share of the way from the base to the search that a policy has gone."""
        base, best = (self.known(name, "cost", regime) for name in (BASE, CLAIRVOYANT))
        # on few days the search may find nothing better, and then nothing is closed
        gap, own = base - best, base - self.known(policy, "cost", regime)
        return Interval.of(np.where(gap > 1e-9, own / np.maximum(gap, 1e-9), 0.0))

    def regret(self, policy: str, regime: str) -> Interval:
        """USD a day above the search."""
        return Interval.of(
            self.known(policy, "cost", regime) - self.known(CLAIRVOYANT, "cost", regime)
        )

    def best_rule(self, regime: str) -> str:
        """The rule that keeps the most deadlines there."""
        return max(self.of_names(RULE_NAMES), key=lambda name: self.mean(regime, name, "met")[0])

    def cheapest_rule(self, regime: str) -> str:
        """The literal rule that costs the least there."""
        return min(self.of_names(LITERAL), key=lambda name: self.mean(regime, name, "cost")[0])

    def of_names(self, names: Sequence[str]) -> list[str]:
        """Those of some names that were run."""
        return [name for name in names if name in self.policies]

    def alike(self, regime: str) -> list[tuple[str, ...]]:
        """Groups of policies that cost the same on each day of a regime."""
        groups: dict[bytes, list[str]] = {}
        for name in self.policies:
            groups.setdefault(self.all_days[regime][name]["cost"].tobytes(), []).append(name)
        return [tuple(names) for names in groups.values() if len(names) > 1]

    def total(self, policy: str, column: str) -> int:
        """Over all days."""
        return sum(int(policies[policy][column].sum()) for policies in self.all_days.values())

    def _mean(self, table: Table, regime: str, policy: str, column: str) -> Figures:
        values = table[regime][policy][column]
        key = (regime, len(values))
        if key not in self._drawn:
            self._drawn[key] = Resampling(len(values), seed=seed_of("report", *key))
        return self._drawn[key].means(values)


def median_of(board: Board, names: Sequence[str]) -> str:
    """The policy whose cost is the median; of an even number the dearer of the two."""
    ordered = sorted(names, key=lambda name: (board.pooled(name, "cost")[0], name))
    return ordered[len(ordered) // 2]
