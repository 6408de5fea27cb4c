"""Which zones a list of the whole project must have: those where machines of ours may be."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from cluster.gce.errors import GceError
from cluster.gce.requests import last_part
from cluster.machines import region_of

_log = logging.getLogger(__name__)

# warnings of a scope that do not mean that machines are missing from the list
_HARMLESS = frozenset({"", "NO_RESULTS_ON_PAGE"})


class Reach:
    """The zones of a client; safe to share between threads.

    Args:
        zones: Those of the settings.

    Attributes:
        ours: They, and those where machines of ours were found: a zone that was taken out of the
            settings may hold machines from before.
    """

    def __init__(self, zones: Iterable[str]) -> None:
        self.ours = frozenset(zones)
        self._told: frozenset[str] = frozenset()

    def found(self, zones: Iterable[str]) -> None:
        """Machines of ours are there."""
        self.ours |= frozenset(zones)

    def check(self, action: str, page: Any, ours: frozenset[str]) -> None:
        """Refuses a page of a list that lacks one of those zones, or the region of one.

        Any other zone holds nothing of ours, whatever happens there: it is logged, once.

        Raises:
            GceError: (unavailable) A zone of ours is missing.
        """
        missing = {last_part(url) for url in page.unreachables}
        missing |= {
            last_part(name)
            for name, scope in page.items.items()
            if scope.warning.code not in _HARMLESS
        }
        if lacking := sorted(missing & (ours | {region_of(zone) for zone in ours})):
            raise GceError(
                f"{action} lacks {', '.join(lacking)}, which GCE cannot reach; it is tried again",
                kind="unavailable",
                code="UNREACHABLE",
            )
        if far := missing - self._told:
            self._told |= far
            zones = ", ".join(sorted(far))
            _log.warning("the %s lacks %s, unreachable and none of cloud.zones", action, zones)
