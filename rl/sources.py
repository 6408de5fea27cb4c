"""Days of training by their numbers, in forms that may be sent to another process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rl.learning.randomised import randomised
from rl.regime import Regime
from rl.traces import Split
from rl.work import Day
from rl.workload import make_day


@dataclass(frozen=True, slots=True)
class RegimeDays:
    """Days of a regime.

    Attributes:
        seed: Of the set of days.
        data: The data folder, for a regime that needs traces.
    """

    regime: Regime
    seed: int
    split: Split = "train"
    data: Path | None = None

    def __call__(self, number: int) -> Day:
        """A day."""
        return make_day(self.regime, self.seed, self.split, number, data=self.data)


@dataclass(frozen=True, slots=True)
class RandomisedDays:
    """Days, each of a regime of its own out of wide ranges.

    Attributes:
        seed: Of the set of days.
    """

    seed: int

    def __call__(self, number: int) -> Day:
        """A day."""
        return make_day(randomised(self.seed, number), self.seed, "train", number)
