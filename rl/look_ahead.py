"""What an option does to those that wait: the most urgent are put on places in order, by belief.

A list schedule, not a simulation: each step starts where it would end first, once the memory that
it needs is free there, and takes what it is believed to take. Cores are not shared in it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

from rl.guardrails import RESERVE_GB
from rl.view import BUY, FIRST_MACHINE, HOME, RunView, StepView, View, WaitingView

MOST = 8  # of those that wait, that are looked at
_MACHINE_GB = 30.0
_NEVER = 3600.0  # until a step is placed for which there is none


class _Place:
    """Memory of a place over time; what comes free is taken in order."""

    __slots__ = ("_free", "_now", "_releases", "is_home")

    def __init__(
        self, free_gb: float, runs: Sequence[RunView], begin: float, *, is_home: bool
    ) -> None:
        self.is_home = is_home
        self._free = free_gb
        self._now = begin
        self._releases = sorted((run.seconds_left, run.memory_gb) for run in runs)

    def start(self, gb: float) -> float:
        """Seconds until so much is free; infinite if it never is."""
        free, now = self._free, self._now
        for at, released in self._releases:
            if free >= gb:
                return now
            free += released
            now = max(now, at)
        return now if free >= gb else float("inf")

    def take(self, gb: float, start: float, seconds: float) -> float:
        """Hold memory from then on; the end."""
        while self._releases and self._free < gb:
            self._free += self._releases.pop(0)[1]
        self._now = max(self._now, start)
        self._free -= gb
        insort(self._releases, (start + seconds, gb))
        return start + seconds


def ends_of_others(
    view: View, step: StepView, action: int, others: Sequence[WaitingView]
) -> list[float]:
    """Believed seconds until the end of each of the others, if an action is taken.

    Args:
        view: At the decision.
        step: That it is about.
        action: HOME, a machine, BUY or WAIT.
        others: The most urgent first.
    """
    home = _Place(view.home.free_gb - RESERVE_GB, view.home.runs, 0.0, is_home=True)
    places = [home]
    target: _Place | None = home if action == HOME else None
    for slot, machine in enumerate(view.machines):
        if machine is not None and machine.state != "leaving":
            place = _Place(machine.free_gb, machine.runs, machine.ready_in, is_home=False)
            places.append(place)
            if action == FIRST_MACHINE + slot:
                target = place
    if action == BUY:
        target = _Place(_MACHINE_GB, (), view.money.boot_seconds, is_home=False)
        places.append(target)
    if target is not None:
        own = step.home_seconds if target.is_home else step.cloud_seconds
        start = target.start(step.memory_p95_gb)
        target.take(step.memory_p95_gb, min(start, _NEVER), own)
    return [_placed(one, places) for one in others]


def _placed(one: WaitingView, places: Sequence[_Place]) -> float:
    best, found = float("inf"), None
    for place in places:
        if one.private and not place.is_home:
            continue
        seconds = one.home_seconds if place.is_home else one.cloud_seconds
        end = place.start(one.memory_gb) + seconds
        if end < best:
            best, found = end, place
    if found is None:
        return _NEVER
    seconds = one.home_seconds if found.is_home else one.cloud_seconds
    return found.take(one.memory_gb, best - seconds, seconds)
