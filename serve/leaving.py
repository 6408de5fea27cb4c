"""The last seconds of a replica whose machine is taken back.

Serve moves a replica away from a draining node once another one runs, and that may be too late: the
machine of the other one boots for half a minute. At the end of the notice the connection would then
simply fall silent, and whoever waits for an answer would learn it from a time-out, seconds later.
So the replica itself says that it is gone, shortly before it is: the router goes elsewhere at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cluster.handover import Handover
from serve.variants import ReplicaLostError

REFUSE_SECONDS = 2.0
"""Before the end: nothing new is taken, what is there is finished."""
BREAK_SECONDS = 0.7
"""Before the end: an answer that is being sent goes on elsewhere; the word must still get out."""


class Leaving:
    """Asks for the notice of this machine's end; a few microseconds a question.

    Args:
        folder: The hand-over folder of the machine's agent; None: this machine is nobody's to take.
        clock: Unix time, the machine's own.
    """

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._handover = Handover(folder) if folder else None
        self._clock = clock

    def check(self, seconds: float = REFUSE_SECONDS) -> None:
        """Return if there is more time than that.

        Raises:
            ReplicaLostError: there is not; the request may run elsewhere.
        """
        notice = self._handover.notice() if self._handover else None
        if notice is not None and notice.seconds_left(self._clock()) < seconds:
            raise ReplicaLostError(
                f"this replica's machine is taken back ({notice.reason})", retry_after=2.0
            )
