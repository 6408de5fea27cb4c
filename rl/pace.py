"""How slow a day's machines are, learned as steps end on them.

How long a step took by what was believed is, as a logarithm, the day's slowness plus the errors of
that belief and of the machine's speed. Both are taken as normal, so the posterior is too.
"""

from __future__ import annotations

import math

PRIOR_SIGMA = 0.2  # of the day's: a range of 0.7 to 1.4 has about that
SPEED_SIGMA = 0.1  # between machines


class Pace:
    """What is believed of the day, for all machines."""

    __slots__ = ("_precision", "_weighted")

    def __init__(self) -> None:
        self._precision = 1.0 / PRIOR_SIGMA**2
        self._weighted = 0.0

    def saw(self, took: float, believed: float, sigma: float) -> None:
        """A step has ended.

        Args:
            took: Seconds of its work, on cores of its own.
            believed: What that was believed to be.
            sigma: Deviation of that belief's logarithm.
        """
        if took > 0 and believed > 0:
            precision = 1.0 / (sigma**2 + SPEED_SIGMA**2)
            self._precision += precision
            self._weighted += precision * math.log(took / believed)

    def mean(self) -> float:
        """Times as long as believed: the posterior's median."""
        return math.exp(self._weighted / self._precision)

    def copy(self) -> Pace:
        """For a branch of a day."""
        twin = Pace()
        twin._precision, twin._weighted = self._precision, self._weighted
        return twin
