"""Facts about head and cluster for the routing policy, asked for at most every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import psutil

from actors.routing import Option, options_of

_BYTES_A_GB = 1_000_000_000
_MEMORY_SECONDS = 1.0
_NODES_SECONDS = 2.0


class MachineFacts:
    """An `actors.steps.executor.Machine`.

    Args:
        has_cloud: Whether there may be workers.
        workers: Ids of those that have joined; blocking, and quick.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        has_cloud: bool,
        workers: Callable[[], Iterable[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._has_cloud = has_cloud
        self._workers = workers
        self._clock = clock
        self._options: tuple[float, Sequence[Option]] = (float("-inf"), ())
        self._memory: tuple[float, tuple[float, float]] = (float("-inf"), (0.0, 0.0))

    def options(self) -> Sequence[Option]:
        """Where work may go."""
        now = self._clock()
        if now - self._options[0] >= _NODES_SECONDS:
            ready = self._has_cloud and any(True for _ in self._workers())
            self._options = (now, options_of(self._has_cloud, ready))
        return self._options[1]

    def memory(self) -> tuple[float, float]:
        """Gigabytes available, and percent in use."""
        now = self._clock()
        if now - self._memory[0] >= _MEMORY_SECONDS:
            found = psutil.virtual_memory()
            self._memory = (now, (found.available / _BYTES_A_GB, found.percent))
        return self._memory[1]
