"""Whether an adapter may be published: not where it is worse than its base on the held-out rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from train.evaluation.options import EvaluationOptions, GateMetric

_LOWER_IS_BETTER = frozenset({"eval_loss", "perplexity"})


def lower_is_better(metric: str) -> bool:
    """Which way a measure points."""
    return metric in _LOWER_IS_BETTER


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of a run.

    Attributes:
        metric: That decides.
        before: Of the base.
        after: Of the trained model.
        tolerance: How much worse it may be.
    """

    metric: GateMetric
    before: float
    after: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """A number that is none never passes."""
        worse = (
            self.after - self.before if lower_is_better(self.metric) else self.before - self.after
        )
        return math.isfinite(worse) and worse <= self.tolerance

    @property
    def words(self) -> str:
        """E.g. `eval_loss went from 2.1000 to 2.3000 (lower is better, tolerance 0)`."""
        direction = "lower" if lower_is_better(self.metric) else "higher"
        return (
            f"{self.metric} went from {self.before:.4f} to {self.after:.4f} ({direction} is "
            f"better, tolerance {self.tolerance:g})"
        )


def judge(
    options: EvaluationOptions,
    before: Mapping[str, float] | None,
    after: Mapping[str, float] | None,
) -> Verdict | None:
    """The verdict on a run; None where its base or its end was not measured."""
    if before is None or after is None:
        return None
    metric = options.gate
    if metric not in before or metric not in after:
        return None
    return Verdict(metric, before[metric], after[metric], options.gate_tolerance)
