"""Which of the steps that wait is asked about first."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rl.view import WaitingView


@dataclass(frozen=True, slots=True)
class Urgency:
    """Weight by what is left of the workflow, and more as its deadline comes near.

    Attributes:
        priority: Exponent of the workflow's weight.
        left: Exponent of the seconds that it has left.
        size: Exponent of what the step holds at home, GB times seconds: the small go first.
        deadline: Weight of a deadline that is neither safe nor lost.
        width: Of the seconds left, the share by which they may be wrong.
    """

    priority: float = 1.0
    left: float = 1.0
    size: float = 0.0
    deadline: float = 0.08
    width: float = 0.5

    def of(self, step: WaitingView, now: float) -> float:
        """The higher, the sooner.

        Args:
            step: That waits.
            now: Seconds after midnight.
        """
        left = step.home_seconds + step.after_seconds
        lateness = (now + left - step.deadline) / (60.0 + self.width * left)
        risk = 1.0 / (1.0 + math.exp(min(abs(lateness), 40.0)))
        held = 1.0 + step.memory_gb * step.home_seconds / 100.0
        value = 1.0 / (math.pow(10.0 + left, self.left) * math.pow(held, self.size))
        # the slope of the logistic function: highest where the outcome is open
        return math.pow(step.priority, self.priority) * (
            value + self.deadline * risk * (1.0 - risk)
        )
