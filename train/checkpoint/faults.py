"""Places in a commit where a test, or the kill matrix, lets the process die or a write fail.

A commit calls `reach` after each write, fsync and rename. In a run nothing happens there; a test
gives one of the classes below, and tries every place of `POINTS`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

LOCAL_POINTS = (
    "begun",  # nothing written yet
    "partial-folder-made",
    "block-written",  # once for each block of a file
    "file-written",
    "file-fsynced",
    "manifest-written",
    "manifest-fsynced",
    "partial-folder-fsynced",
    "renamed",  # the commit, for whoever lists the folder
    "root-fsynced",  # the commit, for whoever lists it after a power cut
    "old-renamed",
    "old-removed",
    "leftover-removed",
)
REMOTE_POINTS = (
    "begun",
    "block-written",
    "object-put",
    "manifest-put",  # the commit
    "old-manifest-deleted",
    "old-deleted",
    "leftover-removed",
)
POINTS = tuple(dict.fromkeys(LOCAL_POINTS + REMOTE_POINTS))
"""All of them, in the order of a commit."""


class Faults(Protocol):
    """What happens at a place."""

    def reach(self, point: str) -> None:
        """Called at one of `POINTS`; returns, raises or does not come back."""


class NoFaults:
    """A run: nothing happens."""

    def reach(self, point: str) -> None:
        """Go on."""


@dataclass(slots=True)
class Recorder:
    """Writes down which places were reached, so that each can be tried."""

    reached: list[str] = field(default_factory=list)

    def reach(self, point: str) -> None:
        """Note it."""
        assert point in POINTS, f"{point!r} is not in POINTS"
        self.reached.append(point)


@dataclass(slots=True)
class FaultAt:
    """Does something when a place is reached for the n-th time.

    Attributes:
        point: One of `POINTS`.
        action: What happens; it may raise.
        visit: 1 for the first time that the place is reached.

    Raises:
        ValueError: no such place.
    """

    point: str
    action: Callable[[], None]
    visit: int = 1
    _seen: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.point not in POINTS:
            raise ValueError(f"fault point {self.point!r} is none of {', '.join(POINTS)}")

    def reach(self, point: str) -> None:
        """Act, if this is the place and the time."""
        if point == self.point:
            self._seen += 1
            if self._seen == self.visit:
                self.action()


def kill() -> None:
    """SIGKILL to this process: no handler runs, no buffer is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail_with(error: Exception) -> Callable[[], None]:
    """An action that raises this error."""

    def action() -> None:
        raise error

    return action
