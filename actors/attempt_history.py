"""What became of a step's attempts until now, as far as it bears on where the next one goes.

It is kept in memory: after a start of the head nothing is known of earlier attempts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from actors.routing import SPOT

OUT_OF_MEMORY = "OutOfMemoryError"
"""Name of Ray's error, which an outcome in the decision log carries as its `cause`."""
_MOST = 10_000
_MOST_KILLED = 100


@dataclass(slots=True)
class Past:
    """Of one step.

    Attributes:
        losses: Machines that were lost under it, or that it was taken off as they were going.
        out_of_memory: Processes that were ended because the machine ran out of memory.
    """

    losses: int = 0
    out_of_memory: int = 0


class AttemptHistory:
    """Of all steps that have failed and may be tried again."""

    def __init__(self) -> None:
        self._past: dict[str, Past] = {}
        self._killed: deque[float] = deque(maxlen=_MOST_KILLED)

    def killed(self, since: float) -> tuple[float, ...]:
        """Unix seconds at which steps ran out of memory, the newest last."""
        return tuple(at for at in self._killed if at >= since)

    def of(self, key: str) -> Past:
        """What is known of a step, by the key that its attempts share."""
        return self._past.get(key, Past())

    def note(self, key: str, place: str, outcome: str, cause: str = "", at: float = 0.0) -> None:
        """An attempt has ended.

        Args:
            key: Of the step.
            at: Unix seconds.
            place: `local` or `spot`.
            outcome: `ok`, `cancelled` or the kind of failure.
            cause: Name of Ray's error; empty: it was none.
        """
        if outcome == "ok":
            self._past.pop(key, None)
            return
        is_memory = cause == OUT_OF_MEMORY
        # a crash of its own at home says nothing about machines
        is_loss = place == SPOT and outcome in ("lost", "moved") and not is_memory
        if not (is_memory or is_loss):
            return
        if is_memory:
            self._killed.append(at)
        if len(self._past) >= _MOST:  # of steps that were given up
            del self._past[next(iter(self._past))]
        past = self._past.setdefault(key, Past())
        past.losses += is_loss
        past.out_of_memory += is_memory
