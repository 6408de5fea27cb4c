"""The zones of a running cluster: what is known of them, kept in the store and shared by threads.

`cluster.launch.zones` decides; here is its memory. It outlives the process, so that a head that
starts again does not hammer a zone that was empty a minute ago.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime

from cluster.gce.errors import GceError
from cluster.launch.zones import ZoneBook
from cluster.tables import load_zone_state, save_zone_state
from ironcliw.errors import ClusterError, NewerFormatError, StoreError
from ironcliw.setting_sections import CloudSettings
from ironcliw.store import Store

_log = logging.getLogger(__name__)

ADVICE_SECONDS = 300.0
"""How long GCE's advice on capacity is used: it costs a call a zone, and delays a launch."""


class ZoneChoice:
    """Which zone to ask next.

    Args:
        cloud: Zones and the first rest of an empty one.
        store: Where the state is kept; migrated already.
        advise: GCE's guess from 0 to 1 by zone, for some zones; may answer with nothing.
        clock: The wall clock; aware datetimes.
        monotonic: Seconds.
    """

    def __init__(
        self,
        cloud: CloudSettings,
        store: Store,
        advise: Callable[[Sequence[str]], Mapping[str, float]],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._advise = advise
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._book = load_book(store, cloud)
        self._advice: Mapping[str, float] = {}
        self._advised_at: float | None = None

    def best(self, tried: Collection[str] = ()) -> str | None:
        """The zone to ask now, but for those that were tried; None: all rest.

        The API is not asked for advice where there is nothing to choose.
        """
        with self._lock:
            awake = self._order(tried)
            if len(awake) > 1 and self._is_advice_old():
                self._advice = self._advise(awake)
                self._advised_at = self._monotonic()
                awake = self._order(tried)
            return awake[0] if awake else None

    def failed(self, zone: str, error: GceError) -> None:
        """The zone refused a machine."""
        with self._lock:
            self._book.failed(self._clock(), zone, error)
            self._save()

    def succeeded(self, zone: str) -> None:
        """The zone gave a machine."""
        with self._lock:
            self._book.succeeded(self._clock(), zone)
            self._save()

    def reasons(self) -> dict[str, str]:
        """Why each resting zone rests."""
        with self._lock:
            return self._book.reasons(self._clock())

    def _order(self, tried: Collection[str]) -> list[str]:
        order = self._book.order(self._clock(), self._advice)
        return [zone for zone in order if zone not in tried]

    def _is_advice_old(self) -> bool:
        at = self._advised_at
        return at is None or self._monotonic() - at > ADVICE_SECONDS

    def _save(self) -> None:
        try:
            save_zone_state(self._store, self._book.to_json(), self._clock())
        except StoreError as error:
            # a machine was made or refused: that stands, whatever the store does
            _log.warning("the state of the zones could not be stored: %s", error)


def load_book(store: Store, cloud: CloudSettings) -> ZoneBook:
    """What the store knows of the zones; a damaged state is dropped, it is a memory of minutes.

    Raises:
        NewerFormatError: A newer release wrote it.
        StoreError: The store cannot be used.
    """
    state = load_zone_state(store)
    if state is not None:
        try:
            return ZoneBook.from_json(state, cloud.zones, cloud.zone_cooldown_seconds)
        except NewerFormatError:
            raise
        except ClusterError as error:
            _log.warning("%s", error)
    return ZoneBook(cloud.zones, cloud.zone_cooldown_seconds)
