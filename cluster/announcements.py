"""Events that a loop would repeat: each is noted once in a while instead of every few seconds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cluster.events import Event, EventLog
from ironcliw.errors import StoreError

_log = logging.getLogger(__name__)

REPEAT_SECONDS = 300
"""The same is noted again after it: the autoscaler tries every five seconds."""
_KEPT = 200


class Announcements:
    """Adds events to the log; safe to share between threads.

    An event that cannot be stored is logged and nothing more: what it tells of has happened.

    Args:
        events: The log of the cluster.
        clock: The wall clock; aware datetimes.
    """

    def __init__(
        self, events: EventLog, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._events = events
        self._clock = clock
        self._lock = threading.Lock()
        self._said: dict[tuple[str, str], datetime] = {}

    def recent(self, count: int, kinds: Collection[str]) -> Sequence[Event]:
        """The newest events of some kinds, newest first; none where the store cannot be read."""
        try:
            return self._events.recent(count, kinds)
        except StoreError as error:
            _log.warning("the events could not be read: %s", error)
            return ()

    def add(self, kind: str, message: str, topic: str | None = None, **facts: Any) -> bool:
        """Notes an event, unless the same was noted in the last `REPEAT_SECONDS`.

        Args:
            kind: As in the log.
            message: One sentence for a person.
            topic: What makes two events the same, beside their kind; by default the message.
            **facts: Values that JSON can hold.

        Returns:
            Whether it was noted now.
        """
        now = self._clock()
        key = kind, message if topic is None else topic
        with self._lock:
            before = self._said.get(key)
            # a clock that was set back must not silence anything
            if before and timedelta() <= now - before < timedelta(seconds=REPEAT_SECONDS):
                return False
            self._said[key] = now
            while len(self._said) > _KEPT:
                del self._said[next(iter(self._said))]
        _log.info("%s: %s", kind, message)
        try:
            self._events.add(kind, message, **facts)
        except StoreError as error:
            _log.warning("an event of kind %s could not be stored: %s", kind, error)
        return True
