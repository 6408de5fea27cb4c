"""An agent's mailbox: bounded, four priorities, none of which starves. Pure: no clock, no waiting.

Within a priority messages go in the order in which they came. A message of a higher priority goes
first, but not for ever: of the messages that are taken while all four priorities have some, 64 in
85 are critical, 16 high, 4 normal and 1 low (stride scheduling, Waldspurger and Weihl 1995). So
the oldest low message is taken after `WAIT_BOUND` others at the latest, however many come.

A message belongs to a lane, for which its agent may have no free hand just now: those of the other
lanes pass it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple

from actors.agents.messages import PRIORITIES, Message
from ironcliw.errors import SettingsError

WEIGHTS = (64, 16, 4, 1)
"""Of critical, high, normal, low."""

_STRIDES = tuple(max(WEIGHTS) // weight for weight in WEIGHTS)
WAIT_BOUND = sum(WEIGHTS) + len(WEIGHTS)


class Overflow(StrEnum):
    """What a full mailbox does with one more message."""

    REFUSE = "refuse"
    """The sender is told `OverloadedError`."""
    DROP_OLDEST = "drop_oldest"
    """The oldest of the least urgent goes, unless all that is there is more urgent."""
    WAIT = "wait"
    """The sender waits until there is room, or until its deadline."""


class Admission(NamedTuple):
    """What became of a message that was put.

    Attributes:
        accepted: it is in the mailbox.
        displaced: the message that had to go for it.
    """

    accepted: bool
    displaced: Message | None = None


_ACCEPTED, _REFUSED = Admission(True), Admission(False)
_Lane = deque[tuple[int, Message]]


class Mailbox:
    """The messages of one agent that wait.

    Args:
        capacity: how many may wait.
        overflow: what happens to one more.

    Raises:
        SettingsError: the capacity is less than one, or there is no such overflow.
    """

    __slots__ = (
        "_capacity",
        "_count",
        "_lanes",
        "_number",
        "_passes",
        "_time",
        "expired",
        "overflow",
    )

    def __init__(self, capacity: int = 1000, overflow: str = Overflow.REFUSE) -> None:
        if capacity < 1:
            raise SettingsError(f"a mailbox holds at least one message, not {capacity}")
        if overflow not in set(Overflow):
            raise SettingsError(f"{overflow!r} is no overflow; give one of {', '.join(Overflow)}")
        self._capacity = capacity
        self.overflow = Overflow(overflow)
        self._count = 0
        self._number = itertools.count()
        self._lanes: tuple[dict[str, _Lane], ...] = tuple({} for _ in PRIORITIES)
        self._passes = [0] * len(PRIORITIES)
        self._time = 0  # virtual: the highest pass that had its turn
        self.expired: list[Message] = []
        """Messages that `take` found past their deadline; whoever takes empties it."""

    def __len__(self) -> int:
        return self._count

    @property
    def by_priority(self) -> tuple[int, ...]:
        """How many wait of each priority, the most urgent first."""
        return tuple(sum(map(len, lanes.values())) for lanes in self._lanes)

    @property
    def full(self) -> bool:
        """Whether one more would overflow."""
        return self._count >= self._capacity

    def put(self, message: Message, lane: str = "") -> Admission:
        """Add a message; a full mailbox does as its overflow says (to wait is the caller's).

        Args:
            message: of any priority.
            lane: those of a lane are taken in order, within a priority.
        """
        displaced = None
        if self._count >= self._capacity:
            if self.overflow is not Overflow.DROP_OLDEST:
                return _REFUSED
            displaced = self._displace(message.priority)
            if displaced is None:
                return _REFUSED
        lanes = self._lanes[message.priority]
        if not lanes:
            # what had nothing to send has saved up no turns meanwhile
            self._passes[message.priority] = self._time + _STRIDES[message.priority]
        if (waiting := lanes.get(lane)) is None:
            waiting = lanes[lane] = deque()
        waiting.append((next(self._number), message))
        self._count += 1
        return _ACCEPTED if displaced is None else Admission(True, displaced)

    def take(self, now: float, is_ready: Callable[[str], bool] | None = None) -> Message | None:
        """The next message, or None if there is none, or none whose lane is ready.

        Args:
            now: of the clock of the messages' deadlines. One that is past goes to `expired`.
            is_ready: whether the agent has a free hand for a lane; None: for all.
        """
        while self._count:
            best, lane = -1, ""
            for priority, lanes in enumerate(self._lanes):
                if lanes and (best < 0 or self._passes[priority] < self._passes[best]):
                    found = _first(lanes, is_ready)
                    if found is not None:
                        best, lane = priority, found
            if best < 0:
                return None
            message = self._pop(best, lane)
            if message.expired(now):
                self.expired.append(message)
                continue
            self._time = max(self._time, self._passes[best])
            self._passes[best] += _STRIDES[best]
            return message
        return None

    def drain(self) -> list[Message]:
        """Take everything, the most urgent first, each priority in its order."""
        found: list[Message] = []
        for lanes in self._lanes:
            found.extend(message for _, message in sorted(_entries(lanes), key=lambda e: e[0]))
            lanes.clear()
        self._count = 0
        return found

    def remove(self, message_id: str) -> Message | None:
        """Take out one message; None: it is not there. Looks at all of them."""
        for lanes in self._lanes:
            for lane, waiting in lanes.items():
                for place, (_, message) in enumerate(waiting):
                    if message.id == message_id:
                        del waiting[place]
                        if not waiting:
                            del lanes[lane]
                        self._count -= 1
                        return message
        return None

    def _displace(self, priority: int) -> Message | None:
        """Take out the oldest of the least urgent; None if all there are more urgent."""
        for candidate in range(len(PRIORITIES) - 1, priority - 1, -1):
            if lanes := self._lanes[candidate]:
                return self._pop(candidate, min(lanes, key=lambda name: lanes[name][0][0]))
        return None

    def _pop(self, priority: int, lane: str) -> Message:
        lanes = self._lanes[priority]
        waiting = lanes[lane]
        _, message = waiting.popleft()
        if not waiting:
            del lanes[lane]
        self._count -= 1
        return message


def _entries(lanes: dict[str, _Lane]) -> Iterator[tuple[int, Message]]:
    return itertools.chain.from_iterable(lanes.values())


def _first(lanes: dict[str, _Lane], is_ready: Callable[[str], bool] | None) -> str | None:
    """The lane whose first message came first, of those that are ready."""
    best: str | None = None
    for name in lanes:
        if (is_ready is None or is_ready(name)) and (
            best is None or lanes[name][0][0] < lanes[best][0][0]
        ):
            best = name
    return best
