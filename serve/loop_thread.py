"""An event loop in a thread of its own, for blocking callers of asynchronous code."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import aclosing
from typing import Any, TypeVar

from ironcliw.errors import UnavailableError

T = TypeVar("T")


class LoopThread:
    """Runs coroutines and asynchronous generators; any thread but its own may call it.

    The thread is a daemon: a program may end without closing it.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._at_end: Callable[[], Awaitable[None]] | None = None
        self._closed = False
        # what is handed over before the end is also ended by it; reentrant, since a finalizer may
        # close this wherever the collector happens to run
        self._handing_over = threading.RLock()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for its result.

        Raises:
            UnavailableError: this was closed, or is closed before the result is there.
        """
        return self._result(self._submit(work))

    def iterate(self, source: AsyncGenerator[T]) -> Generator[T]:
        """The items of an asynchronous generator as they come; nothing runs before the first is
        asked for. Closing this closes the source, at once and without waiting for its next item.
        """
        items: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()

        async def pump() -> None:
            async with aclosing(source):
                async for item in source:
                    items.put((item,))

        future = self._submit(pump())
        future.add_done_callback(lambda _: items.put(None))
        try:
            while (item := items.get()) is not None:
                yield item[0]
            self._result(future)
        finally:
            future.cancel()

    def at_end(self, work: Callable[[], Awaitable[None]]) -> None:
        """What to run last, in the loop."""
        self._at_end = work

    def close(self, *, wait: bool = True) -> None:
        """Run what is to be run last, then end everything; harmless when repeated.

        Args:
            wait: For the end of the thread.
        """
        with self._handing_over:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._stop.set)
        if wait:
            self._thread.join()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_closed())

    async def _until_closed(self) -> None:
        await self._stop.wait()
        if self._at_end is not None:
            await self._at_end()

    def _submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        with self._handing_over:
            if not self._closed:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise UnavailableError("it was closed; load it again")

    def _result(self, future: concurrent.futures.Future[T]) -> T:
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise UnavailableError("it was closed before the answer was whole") from None
        finally:
            future.cancel()
