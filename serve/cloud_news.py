"""Why the cloud's side is not there: the newest event of the cluster that may explain it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cluster.events import EventLog
from ironcliw.errors import StoreError
from ironcliw.store import Store

logger = logging.getLogger(__name__)

_KINDS = frozenset({"launch", "launch_failed", "refused", "joined", "budget", "mismatch"})
_RECENT = timedelta(minutes=10)
_FRESH_SECONDS = 2.0


class CloudNews:
    """The newest reason, read from the store once in two seconds at most. Blocking.

    Args:
        url: Of the state store.
        clock: The wall clock; aware datetimes.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._url = url
        self._clock = clock
        self._found: str | None = None
        self._read_at = float("-inf")

    def __call__(self) -> str | None:
        """One sentence, or None where nothing of the last minutes explains it."""
        if time.monotonic() - self._read_at > _FRESH_SECONDS:
            self._found = self._read()
            self._read_at = time.monotonic()
        return self._found

    def _read(self) -> str | None:
        try:
            with Store(self._url) as store:
                events = EventLog(store, self._clock).recent(1, _KINDS)
        except StoreError as error:
            logger.warning("the cluster's events cannot be read: %s", error)
            return None
        if not events or self._clock() - events[0].at > _RECENT:
            return None
        return f"{events[0].kind}: {events[0].message}"
