"""Which days are learned from and chosen on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ironcliw.errors import SettingsError
from rl.learning.plan import Training
from rl.learning.randomised import NAME, randomised
from rl.regime import Regime
from rl.work import Day
from rl.workload import make_day

FRESH = 1_000_000  # number of the first day of validation on which nothing is chosen


def check_regimes(regimes: Sequence[Regime]) -> None:
    """Refuse to learn from what is held out.

    Raises:
        SettingsError: there is none, or one is held out.
    """
    if not regimes:
        raise SettingsError("no regime to learn from; give one or more by --regime")
    for regime in regimes:
        if not regime.trained:
            raise SettingsError(
                f"regime {regime.name!r} is held out (trained = false); learn from others"
            )


def training_days(
    regimes: Sequence[Regime], plan: Training, number: int, data: Path | None = None
) -> Iterator[Day]:
    """Days without end, no two alike.

    Args:
        regimes: Drawn from, but for the randomised share.
        plan: Its seed and share.
        number: Of the round; each has days of its own.
        data: The data folder.
    """
    random = np.random.default_rng([plan.seed, 1, number])
    first = number * 1_000_000
    for index in range(first, first + 1_000_000):
        if random.random() < plan.randomised:
            regime = randomised(plan.seed, index)
        else:
            regime = regimes[int(random.integers(len(regimes)))]
        yield make_day(regime, plan.seed, "train", index, data=data)


def validation_days(
    regimes: Sequence[Regime], plan: Training, data: Path | None = None
) -> dict[str, list[Day]]:
    """Days to choose on, by regime; the same for every seed of training."""
    return _of_validation(regimes, plan, range(plan.validation), data)


def fresh_days(
    regimes: Sequence[Regime], plan: Training, number: int, data: Path | None = None
) -> dict[str, list[Day]]:
    """Days on which a choice is confirmed, by regime: nothing was chosen on them.

    Args:
        regimes: All of which are tried.
        plan: How many.
        number: Of the confirmation; each has days of its own.
        data: The data folder.
    """
    first = FRESH + number * plan.confirmation
    return _of_validation(regimes, plan, range(first, first + plan.confirmation), data)


def _of_validation(
    regimes: Sequence[Regime], plan: Training, numbers: range, data: Path | None
) -> dict[str, list[Day]]:
    found = {
        regime.name: [make_day(regime, 1, "validation", one, data=data) for one in numbers]
        for regime in regimes
    }
    if plan.randomised > 0:
        found[NAME] = [make_day(randomised(1, -1 - one), 1, "validation", one) for one in numbers]
    return found
