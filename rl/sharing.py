"""When work ends at a place whose cores are shared evenly."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from rl.view import RunView

_by_work = attrgetter("work_seconds")


def shared_seconds(
    work: float, cores: float, capacity: float, wanted: float, runs: Sequence[RunView]
) -> float:
    """Seconds until a step that starts now ends (egalitarian processor sharing).

    Args:
        work: Its seconds on cores of its own.
        cores: That it keeps busy.
        capacity: Cores of the place.
        wanted: Cores that the others there keep busy, those that have not begun among them.
        runs: Steps there; their cores come free as they end.
    """
    wanted += cores
    if wanted <= capacity:
        return work
    seconds = done = 0.0
    for run in sorted(runs, key=_by_work):
        if run.work_seconds >= work or wanted <= capacity:
            break
        # all run at the same rate, so each has done as much as the others
        seconds += (run.work_seconds - done) * wanted / capacity
        done = run.work_seconds
        wanted -= run.cores
    return seconds + (work - done) * max(1.0, wanted / capacity)


def until_free(gb: float, free_gb: float, runs: Sequence[RunView]) -> tuple[float, bool]:
    """(seconds until so much memory is free and a step has ended, whether it is by then).

    Until one has ended nothing changes, so who waits does so until then at least.

    Args:
        gb: That is wanted.
        free_gb: That is free now.
        runs: Whose memory comes free as they end.
    """
    seconds = 0.0
    for run in sorted(runs, key=attrgetter("seconds_left")):
        free_gb += run.memory_gb
        seconds = run.seconds_left
        if free_gb >= gb:
            return seconds, True
    return seconds, False
