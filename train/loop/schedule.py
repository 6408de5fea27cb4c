"""The learning rate of a step: a pure function, so that a resumed run needs none of its history."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class LearningRate:
    """Warm-up from 0, then a curve down to 0, or none.

    Attributes:
        peak: The rate after the warm-up.
        steps: Steps of the whole run.
        warmup: Steps in which the rate rises.
        kind: Of the curve.
    """

    peak: float
    steps: int
    warmup: int
    kind: Literal["cosine", "linear", "constant"]

    def at(self, step: int) -> float:
        """The rate of optimizer step `step`, counted from 0, as transformers' schedules give it."""
        if step < self.warmup:
            return self.peak * step / max(1, self.warmup)
        if self.kind == "constant":
            return self.peak
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.kind == "linear":
            return self.peak * max(0.0, 1.0 - done)
        return self.peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))


def warmup_steps(given: int | None, share: float, steps: int) -> int:
    """The warm-up that was asked for in steps, or as a share of all of them, rounded up."""
    return given if given is not None else math.ceil(share * steps)
