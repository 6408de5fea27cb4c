"""Asynchronous work for blocking callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest

from ironcliw.errors import RequestError, UnavailableError
from serve.loop_thread import LoopThread

PATIENCE_SECONDS = 60.0


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    thread = LoopThread("under-test")
    yield thread
    thread.close()


class Source:
    """Numbers without end, and what became of them."""

    def __init__(self, pause: float = 0.0, most: int = 1_000_000) -> None:
        self.begun = threading.Event()
        self.closed = threading.Event()
        self._pause = pause
        self._most = most

    async def numbers(self) -> AsyncGenerator[int]:
        try:
            self.begun.set()
            for number in range(self._most):
                yield number
                await asyncio.sleep(self._pause)
        finally:
            self.closed.set()


async def value(given: int) -> int:
    return given


async def failing() -> AsyncGenerator[int]:
    yield 1
    raise RequestError("the third is missing")


def test_results_and_errors_come_back(loop: LoopThread) -> None:
    async def fail() -> None:
        raise RequestError("no")

    assert loop.run(value(3)) == 3
    with pytest.raises(RequestError, match="no"):
        loop.run(fail())
    assert loop.run(value(4)) == 4


def test_items_come_in_order_and_the_source_is_closed(loop: LoopThread) -> None:
    source = Source(most=5)
    assert list(loop.iterate(source.numbers())) == [0, 1, 2, 3, 4]
    assert source.closed.is_set()


def test_what_came_before_an_error_is_delivered(loop: LoopThread) -> None:
    items = loop.iterate(failing())
    assert next(items) == 1
    with pytest.raises(RequestError, match="the third is missing"):
        next(items)


def test_nothing_runs_before_the_first_item_is_asked_for(loop: LoopThread) -> None:
    source = Source()
    items = loop.iterate(source.numbers())
    loop.run(value(0))
    assert not source.begun.is_set()
    items.close()


def test_leaving_closes_the_source_without_its_next_item(loop: LoopThread) -> None:
    source = Source(pause=1000)
    items = loop.iterate(source.numbers())
    assert next(items) == 0
    items.close()
    assert source.closed.wait(PATIENCE_SECONDS)


def test_several_threads_share_the_loop(loop: LoopThread) -> None:
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.extend(loop.iterate(Source(most=50).numbers())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert sorted(results) == sorted(list(range(50)) * 4)


def test_closing_ends_what_runs_after_the_last_work() -> None:
    loop, source, order = LoopThread("under-test"), Source(pause=1000), []

    async def last() -> None:
        order.append("last" if not source.closed.is_set() else "too late")

    loop.at_end(last)
    items = loop.iterate(source.numbers())
    assert next(items) == 0
    loop.close()
    loop.close()
    assert order == ["last"]
    assert source.closed.is_set()
    with pytest.raises(UnavailableError, match="closed before the answer was whole"):
        next(items)
    with pytest.raises(UnavailableError, match="it was closed; load it again"):
        loop.run(value(1))
    with pytest.raises(UnavailableError, match="it was closed; load it again"):
        next(loop.iterate(Source().numbers()))


def test_work_that_meets_the_end_is_done_or_refused() -> None:
    for _ in range(20):
        loop, barrier, ends = LoopThread("under-test"), threading.Barrier(5), list[object]()

        def hand_over(
            loop: LoopThread = loop,
            barrier: threading.Barrier = barrier,
            ends: list[object] = ends,
        ) -> None:
            barrier.wait()
            try:
                ends.append(loop.run(value(1)))
            except UnavailableError as error:
                ends.append(error)

        threads = [threading.Thread(target=hand_over, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        barrier.wait()
        loop.close()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        assert len(ends) == 4, "somebody waits for ever, or got another error"


def test_nothing_slips_in_between_the_check_and_the_end() -> None:
    loop = LoopThread("under-test")
    handing_over, closed = threading.Event(), threading.Event()
    hand_over = asyncio.run_coroutine_threadsafe

    def slow(*arguments: Any) -> Any:
        handing_over.set()
        closed.wait(0.2)  # with a lock, closing cannot come in between
        return hand_over(*arguments)

    ends: list[object] = []

    def run() -> None:
        try:
            ends.append(loop.run(value(1)))
        except UnavailableError as error:
            ends.append(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "run_coroutine_threadsafe", slow)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert handing_over.wait(PATIENCE_SECONDS)
        loop.close()
        closed.set()
        thread.join(PATIENCE_SECONDS)
    assert len(ends) == 1, "the work was handed to a loop that had ended"
