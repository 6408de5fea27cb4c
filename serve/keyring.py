"""The ingress's view of the API keys: in memory, a moment old at most."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from ironcliw.errors import StoreError, UnavailableError
from serve.keys import ApiKey, ApiKeys, StoredKey, match

logger = logging.getLogger(__name__)


class KeyRing:
    """Looks secrets up in microseconds; reads the store once per `refresh_seconds` at most.

    A revoked key stops working, and a new one starts, within `refresh_seconds`. Where the store
    cannot be read, the last view serves on for `stale_seconds` (a PostgreSQL that restarts shall
    not stop local work), `degraded` says so, and after that every look-up is refused: a revocation
    is never missed for longer.

    An event loop that must not wait for the store calls `refresh` in a thread, a little more often
    than every `refresh_seconds`; `lookup` then never reads the store itself, and it answers from
    the last view while such a read is under way, however long the store takes.

    Args:
        keys: The keys in the store.
        refresh_seconds: The oldest view that answers without a new look at the store.
        clock: Seconds, never going back.
        stale_seconds: The oldest view that answers while the store cannot be read.
    """

    def __init__(
        self,
        keys: ApiKeys,
        refresh_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        stale_seconds: float = 60.0,
    ) -> None:
        self._keys = keys
        self._refresh_seconds = refresh_seconds
        self._stale_seconds = stale_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._view: Mapping[str, StoredKey] = {}
        self._read_at: float | None = None  # when the view was true
        self._tried_at: float | None = None  # when the store was last asked
        self._used: set[str] = set()
        self.degraded: str | None = None
        """Why the view is older than it should be; None while it is not."""

    def lookup(self, secret: str) -> ApiKey | None:
        """The active key that a secret belongs to; None if there is none.

        Raises:
            UnavailableError: The store could not be read for `stale_seconds`.
        """
        key = match(secret, self._current())
        if key is not None:
            self._used.add(key.id)
        return key

    def any(self) -> bool:
        """Whether any key is active.

        Raises:
            UnavailableError: The store could not be read for `stale_seconds`.
        """
        return bool(self._current())

    def refresh(self) -> None:
        """Reads the store now.

        Raises:
            UnavailableError: It cannot be read, and the last view is too old.
        """
        with self._lock:
            self._read()

    def flush(self) -> None:
        """Writes to the store which keys were used since the last call: `last_used_at`.

        Raises:
            StoreError: The store cannot be written; the next call tries again.
        """
        used, self._used = self._used, set()
        if not used:
            return
        try:
            self._keys.touch(used)
        except StoreError:
            self._used |= used
            raise

    def _current(self) -> Mapping[str, StoredKey]:
        if self._due() and self._lock.acquire(blocking=self._read_at is None):
            try:
                if self._due():  # nobody else did it while we waited
                    self._read()
            finally:
                self._lock.release()
        if self._read_at is None or self._clock() - self._read_at > self._limit():
            raise self._refusal()
        return self._view

    def _due(self) -> bool:
        if self._tried_at is None:
            return True
        return self._clock() - self._tried_at >= self._refresh_seconds

    def _limit(self) -> float:
        return max(self._stale_seconds, self._refresh_seconds)

    def _read(self) -> None:
        now = self._clock()  # before the query: the view may not count as newer than it is
        if self._read_at is not None:
            # a server that is away costs seconds to find out: nobody else shall try meanwhile
            self._tried_at = now
        try:
            self._view = self._keys.active()
        except StoreError as error:
            # and the next try waits as well
            self._tried_at = self._clock()
            self.degraded = error.message
            logger.warning("API keys were not refreshed: %s", error)
            if self._read_at is None or now - self._read_at > self._limit():
                raise self._refusal() from error
            return
        self._read_at = now
        self._tried_at = self._clock()
        self.degraded = None

    def _refusal(self) -> UnavailableError:
        reason = self.degraded or "the store does not answer"
        return UnavailableError(
            f"API keys cannot be checked: {reason}; try again when the store is back",
            retry_after=self._refresh_seconds,
        )
