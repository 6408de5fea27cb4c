"""Whether a model fits into the memory of this machine, by the project's two rules for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

from cluster.placement import Backend, has_local_room, select_model_backend
from ironcliw.catalog import ModelCard

_GIGABYTE = 1e9
_FRESH_SECONDS = 1.0
_LOADED = frozenset({"queued", "loading", "ready", "in_use"})


def available_bytes() -> int:
    """Memory that this machine can give without swapping."""
    return int(psutil.virtual_memory().available)


def used_percent() -> float:
    """Share of this machine's memory that is in use, 0 to 100."""
    return float(psutil.virtual_memory().percent)


class LocalRoom:
    """Answers `fits` for each request, so it looks at the memory once a second at most.

    A model that is in the memory already fits: what the rule would keep free for it is spent.

    Args:
        catalog: Sizes of the weights.
        pinned: Models that are always kept at home.
        clock: Seconds that never decrease.
        free: Bytes of memory that are available now.
        used: Percentage of memory in use now.
    """

    def __init__(
        self,
        catalog: Mapping[str, ModelCard],
        pinned: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
        free: Callable[[], int] = available_bytes,
        used: Callable[[], float] = used_percent,
    ) -> None:
        self._catalog = catalog
        self._pinned = frozenset(pinned)
        self._clock = clock
        self._free = free
        self._used = used
        self._loaded: frozenset[str] = frozenset()
        self._free_gb = 0.0
        self._takes_more = False
        self._looked_at = float("-inf")

    def fits(self, model_id: str) -> bool:
        """Whether the model is at home, or would fit.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        # an adapter needs next to nothing beside its base
        if {model_id, model_id.partition(":")[0]} & (self._pinned | self._loaded):
            return True
        now = self._clock()
        if now - self._looked_at > _FRESH_SECONDS:
            self._free_gb, self._looked_at = self._free() / _GIGABYTE, now
            self._takes_more = has_local_room(self._used())
        size = self._catalog[model_id].bytes / _GIGABYTE
        return self._takes_more and select_model_backend(size, self._free_gb) is Backend.LOCAL

    def see(self, stats: Mapping[str, Any]) -> None:
        """Take in what the replica at home reports."""
        self._loaded = frozenset([row["id"] for row in stats["models"] if row["state"] in _LOADED])
