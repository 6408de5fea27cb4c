"""Whether an adapter may be published: not where it is worse than its base on the held-out rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from train.evaluation.held_out import are_of_one_kind
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
    """The verdict on a run; None where there cannot be one, for the reason of `why_unjudged`."""
    if before is None or after is None or why_unjudged(options, before, after):
        return None
    metric = options.gate
    return Verdict(metric, before[metric], after[metric], options.gate_tolerance)


def why_unjudged(
    options: EvaluationOptions,
    before: Mapping[str, float] | None,
    after: Mapping[str, float] | None,
) -> str:
    """Why nothing tells whether a run's result is worse than its base; empty: something does."""
    if before is None or after is None:
        return "nothing was held out, so that nothing tells whether it is worse than its base"
    if not are_of_one_kind(before, after):
        return (
            "the held-out rows, or what is measured of them, were changed while the run went on, "
            "so that its base was measured otherwise; train under another name to compare them"
        )
    if options.gate not in before or options.gate not in after:
        return (
            f"{options.gate} was not measured, so that nothing tells whether it is worse than its "
            "base; choose another measure as evaluation.gate"
        )
    return ""
