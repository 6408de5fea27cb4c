"""The threads of a process, in which the plain methods of its agents run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class Threads:
    """So many threads, and what keeps them busy.

    Args:
        most: threads; what comes when all are busy waits.
    """

    def __init__(self, most: int) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="agent")
        self._waiting: dict[object, float] = {}
        self._lost: set[Future[Any]] = set()

    def submit(self, method: Callable[..., _Result], *arguments: Any) -> Future[_Result]:
        """Have a method called as soon as a thread is free."""
        ticket = object()
        self._waiting[ticket] = time.monotonic()

        def run() -> _Result:
            self._waiting.pop(ticket, None)
            return method(*arguments)

        def ended(_: Future[_Result]) -> None:  # also one that was cancelled before it began
            self._waiting.pop(ticket, None)

        future = self._pool.submit(run)
        future.add_done_callback(ended)
        return future

    def leave(self, works: Iterable[Future[Any]]) -> None:
        """Nobody waits for these any more; those that run go on, for nothing."""
        for work in works:
            if not work.done():
                self._lost.add(work)
                work.add_done_callback(self._lost.discard)

    @property
    def lost(self) -> int:
        """Threads that are at something for which nobody waits."""
        return len(self._lost)

    @property
    def wait_seconds(self) -> float:
        """How long what is next has waited for a thread; 0: nothing waits."""
        # a copy, made at once: threads take from it meanwhile
        since = min(list(self._waiting.values()), default=None)
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Begin with nothing more; what runs is left to itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
