"""Steps that are ready and were told to wait for a better moment: asked about again on events.

One whose moment has come is asked about then, whatever happens. After an event all are, a round of
them at a time: half of a round are those that go first, so that what has just come free is theirs,
and half those that were asked about longest ago, so that everybody has a turn. Who goes first says
`prefer`, among those that came first.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

ROUND = 64
"""At most so many are asked about again at once; the others have their turn in the next rounds."""
LEAST_ROUND = 16
"""Where few of a round were let go, the next one is of twice as many as were, and of so many."""
PAUSE_SECONDS = 0.2
"""Events that come within it are one, and rounds are so far apart: many steps that end together
must not ask as often, and the event loop has other work."""
MOST_SHARE = 0.1
"""Of the event loop's time, for asking again: where a round takes long, they are further apart."""
PREFERRED = 4 * ROUND
"""Among so many, those that came first, `prefer` chooses; what it asks takes time."""
_LEAST_SECONDS = 1.0
# a timer of the event loop stands still while a laptop sleeps
_LONGEST_SECONDS = 60.0

Entry = TypeVar("Entry")


class _Held(NamedTuple):
    """When one is asked about at the latest, its rank, and the event of which it was asked."""

    at: float
    rank: float
    asked: int


class Holding(Generic[Entry]):
    """What waits.

    Args:
        clock: Unix seconds.
        again: Told that it is time to ask; it calls `take`.
        prefer: Given entries by their rank, gives them by who goes first; None: that is by rank.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        again: Callable[[], None],
        prefer: Callable[[Sequence[Entry]], Sequence[Entry]] | None = None,
    ) -> None:
        self._clock = clock
        self._again = again
        self._prefer = prefer
        # in the order in which they were asked about
        self._held: dict[Entry, _Held] = {}
        self._has_happened = False
        self._events = 0
        self._pause = PAUSE_SECONDS
        self._taken: list[Entry] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, entry: Entry, at: float, rank: float) -> None:
        """Keep one until something happens, or until then, which is a second from now or more.

        Args:
            entry: It.
            at: Unix seconds.
            rank: Its place in the order of starts; see `actors.orchestration.start_queue`.
        """
        at = max(at, self._clock() + _LEAST_SECONDS)
        self._held.pop(entry, None)  # to the end
        self._held[entry] = _Held(at, rank, self._events)
        self._arm(at)

    def first(self, most: int) -> list[Entry]:
        """So many at most, by rank."""
        return heapq.nsmallest(most, self._held, key=lambda entry: self._held[entry].rank)

    def something_happened(self) -> None:
        """Ask again soon."""
        if self._held:
            self._has_happened = True
            self._arm(self._clock() + self._pause)

    def took(self, seconds: float) -> None:
        """A round of questions has taken so long."""
        self._pause = max(PAUSE_SECONDS, seconds / MOST_SHARE)

    def take(self) -> list[Entry]:
        """Those to ask about now, the one that goes first first."""
        now, held, most = self._clock(), self._held, self._most()
        if self._has_happened:
            self._events += 1
            self._has_happened = False
        due = [entry for entry, one in held.items() if one.at <= now]
        taken = dict.fromkeys(heapq.nsmallest(most, due, key=lambda entry: held[entry]))
        # those that have not been asked about since the last event, longest ago first
        unasked = [entry for entry, one in held.items() if one.asked < self._events]
        first = self._first_of(unasked, most) if len(unasked) > most - len(taken) else []
        for entry in itertools.chain(first, unasked):
            if len(taken) >= most:
                break
            taken[entry] = None
        found = self._taken = sorted(taken, key=lambda entry: held[entry].rank)
        for entry in found:
            del held[entry]
        if held:
            more = any(entry in held for entry in itertools.chain(due, unasked))
            self._arm(now + self._pause if more else min(one.at for one in held.values()))
        return found

    def _most(self) -> int:
        """How many are asked about now: what waits on for a full place need not all be asked."""
        if not self._taken:
            return ROUND
        let_go = sum(entry not in self._held for entry in self._taken)
        return min(ROUND, max(LEAST_ROUND, 2 * let_go))

    def _first_of(self, entries: Sequence[Entry], most: int) -> Sequence[Entry]:
        """Half of a round of so many."""
        count = most // 2 if self._prefer is None else PREFERRED
        found: Sequence[Entry]
        found = heapq.nsmallest(count, entries, key=lambda entry: self._held[entry].rank)
        if self._prefer is not None:
            found = self._prefer(found)
        return found[: most // 2]

    def close(self) -> None:
        """Forget all."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        delay = min(max(at - self._clock(), 0.0), _LONGEST_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._timer_at = float("inf")
        if self._held:
            self._again()
