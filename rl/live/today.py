"""What steps that have ended since the fit say of how long their functions take.

The fit is made at night; a function that is new, or has changed, would be believed wrongly until
then. A run counts as one more row of the fit: times are drawn towards what the fit says, which
counts as the rows that it was made from. Beliefs are told anew only where they have moved, since
all that was derived from them is then derived again.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

from rl.calibration.fit import CLOUD, HOME, Fit, LogNormal, shrunk

_LEAST_SECONDS = 1e-3
_MOST_ROWS = 20.0
"""That a fit counts for: a function that has changed since is believed after some tens of runs."""
_MOST_RUNS = 40
_MOST_FUNCTIONS = 4096
_MOVED = 0.1
"""Of the logarithm: a tenth of the time, or of its deviation."""


class Today:
    """Durations of functions by place, from a fit and what ran since.

    Args:
        fit: What was believed before.

    Attributes:
        fit: What is believed now; its digest stays that of the file.
        runs: Steps that ended since.
    """

    def __init__(self, fit: Fit) -> None:
        self.fit = fit
        self.runs = 0
        self._before = fit
        self._logs: dict[tuple[str, str], deque[float]] = {}

    def ran(self, target: str, place: str, seconds: float, expected: float | None = None) -> bool:
        """A step has ended well.

        Args:
            target: Its function.
            place: `local` or `spot`.
            seconds: That it ran; what is no positive number is passed over.
            expected: What its author says of it.

        Returns:
            Whether another fit is believed now.
        """
        if place not in (HOME, CLOUD) or not (math.isfinite(seconds) and seconds > 0):
            return False
        self.runs += 1
        key = target, place
        if key not in self._logs and len(self._logs) >= _MOST_FUNCTIONS:
            self._logs.clear()
        logs = self._logs.setdefault(key, deque(maxlen=_MOST_RUNS))
        logs.append(math.log(max(seconds, _LEAST_SECONDS)))
        centre, weight = self._centre(target, place, expected)
        found = replace(shrunk(logs, centre, weight), count=centre.count + len(logs))
        if not _has_moved(self.fit.durations.get(target, {}).get(place), found):
            return False
        own = {**self.fit.durations.get(target, {}), place: found}
        self.fit = replace(self.fit, durations={**self.fit.durations, target: own})
        return True

    def _centre(self, target: str, place: str, expected: float | None) -> tuple[LogNormal, float]:
        """What was believed without the runs of today there, and how many runs that counts for."""
        before = self._before.durations.get(target, {}).get(place)
        if before is not None:
            return before, min(max(1.0, float(before.count)), _MOST_ROWS)
        elsewhere = dict(self.fit.durations.get(target, {}))
        elsewhere.pop(place, None)
        found = replace(self.fit, durations={target: elsewhere}).seconds(target, place, expected)
        return replace(found, count=0), 1.0


def _has_moved(before: LogNormal | None, now: LogNormal) -> bool:
    if before is None:
        return True
    return abs(now.mu - before.mu) > _MOVED or abs(now.sigma - before.sigma) > _MOVED
