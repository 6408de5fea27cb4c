"""The shell around the batcher, with an engine that answers when the test says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
import pytest
import pytest_asyncio

from ironcliw.adapter_catalog import AdapterCard
from ironcliw.errors import (
    AdapterError,
    DeadlineExceededError,
    IroncliwError,
    OverloadedError,
    RequestError,
    UnavailableError,
)
from serve.batcher import BatchLimits, Priority
from serve.batching import BatchQueue, Item
from serve.engines.protocol import AdaptedTokens, Tokens, Vectors

PATIENCE = 60.0
LIMITS = BatchLimits(max_batch_tokens=64, slots=1)


class ReplicaGoneError(Exception):
    """What a transport raises when the replica died under a call."""


def text(length: int, word: int = 0) -> Tokens:
    return np.full(length, word, np.int32)


def vector_of(sequence: Tokens) -> list[float]:
    return [float(len(sequence)), float(sequence[0])]


class HeldEngine:
    """Every call waits until the test answers it."""

    def __init__(self) -> None:
        self.calls: list[list[Tokens]] = []
        self.answers: list[asyncio.Future[Vectors]] = []
        self.batches: list[tuple[int, int, list[float], float]] = []

    async def run(self, sequences: list[Tokens]) -> Vectors:
        self.calls.append(sequences)
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    async def called(self, times: int) -> None:
        await until(lambda: len(self.calls) >= times)

    def answer(self, call: int) -> None:
        rows = [vector_of(sequence) for sequence in self.calls[call]]
        self.answers[call].set_result(np.array(rows, np.float32))

    def fail(self, call: int, error: Exception) -> None:
        self.answers[call].set_exception(error)

    def on_batch(
        self, tokens: int, items: int, queue_seconds: Sequence[float], seconds: float
    ) -> None:
        self.batches.append((tokens, items, list(queue_seconds), seconds))


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0)


async def turns(count: int = 5) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def engine() -> HeldEngine:
    return HeldEngine()


@pytest_asyncio.fixture
async def queue(engine: HeldEngine) -> AsyncIterator[BatchQueue]:
    queue = BatchQueue(
        LIMITS, engine.run, observer=engine, retry_on=(ReplicaGoneError,), max_losses=2
    )
    yield queue
    await queue.close()


async def test_a_lone_request_is_sent_at_once(engine: HeldEngine, queue: BatchQueue) -> None:
    request = asyncio.create_task(queue.submit([text(3, 7)]))
    await turns(3)  # its task, the plan, the call
    assert len(engine.calls) == 1
    engine.answer(0)
    vectors = await request
    assert [v.tolist() for v in vectors] == [[3.0, 7.0]]
    assert vectors[0].dtype == np.float32
    assert queue.stats().in_flight == 0


async def test_requests_of_one_turn_and_of_a_busy_engine_share_batches(
    engine: HeldEngine, queue: BatchQueue
) -> None:
    early = [asyncio.create_task(queue.submit([text(2, word)])) for word in range(4)]
    await engine.called(1)
    late = [asyncio.create_task(queue.submit([text(2, word)])) for word in range(4, 10)]
    await turns()
    assert [len(call) for call in engine.calls] == [4]
    engine.answer(0)
    await engine.called(2)
    engine.answer(1)
    answers = await asyncio.gather(*early, *late)
    assert [len(call) for call in engine.calls] == [4, 6]
    assert [vectors[0][1] for vectors in answers] == list(range(10))


async def test_a_split_request_comes_back_whole_and_in_order(engine: HeldEngine) -> None:
    limits = BatchLimits(max_batch_tokens=64, slots=2, eager_second_slot_tokens=0)
    queue = BatchQueue(limits, engine.run)
    request = asyncio.create_task(queue.submit([text(40, word) for word in range(3)]))
    await engine.called(2)
    assert queue.stats().in_flight == 2
    engine.answer(1)
    await engine.called(3)
    engine.answer(2)
    await turns()
    assert not request.done()
    engine.answer(0)
    assert [v[1] for v in await request] == [0, 1, 2]
    await queue.close()


async def test_priority_decides_who_is_next(engine: HeldEngine, queue: BatchQueue) -> None:
    tasks = [asyncio.create_task(queue.submit([text(64)]))]
    await engine.called(1)
    tasks.append(asyncio.create_task(queue.submit([text(60, 1)], priority=Priority.LOW)))
    await turns()
    tasks.append(asyncio.create_task(queue.submit([text(60, 2)], priority=Priority.CRITICAL)))
    await turns()
    for call in range(3):
        await engine.called(call + 1)
        engine.answer(call)
    await asyncio.gather(*tasks)
    assert [call[0][0] for call in engine.calls] == [0, 2, 1]


async def test_a_cancelled_request_never_runs(engine: HeldEngine, queue: BatchQueue) -> None:
    first = asyncio.create_task(queue.submit([text(64)]))
    await engine.called(1)
    dropped = asyncio.create_task(queue.submit([text(60, 1)]))
    kept = asyncio.create_task(queue.submit([text(60, 2)]))
    await turns()
    dropped.cancel()
    with pytest.raises(asyncio.CancelledError):  # it has no message to match
        await dropped
    assert queue.stats().waiting_items == 1
    engine.answer(0)
    await engine.called(2)
    engine.answer(1)
    await asyncio.gather(first, kept)
    assert [call[0][0] for call in engine.calls] == [0, 2]


async def test_a_request_cancelled_in_flight_leaves_the_others_alone(
    engine: HeldEngine, queue: BatchQueue
) -> None:
    dropped = asyncio.create_task(queue.submit([text(5, 1)]))
    kept = asyncio.create_task(queue.submit([text(5, 2)]))
    await engine.called(1)
    dropped.cancel()
    engine.answer(0)  # before the caller has noticed
    assert [v.tolist() for v in await kept] == [[5.0, 2.0]]
    assert queue.stats() == queue.stats().__class__(0, 0, 0, 0.0)


async def test_a_deadline_passes_while_computing(engine: HeldEngine, queue: BatchQueue) -> None:
    with pytest.raises(DeadlineExceededError, match="while the request was computed"):
        await queue.submit([text(5)], deadline=time.monotonic() + 0.02)
    assert len(engine.calls) == 1
    engine.answer(0)
    await until(lambda: queue.stats().in_flight == 0)


async def test_a_deadline_passes_while_waiting(engine: HeldEngine, queue: BatchQueue) -> None:
    first = asyncio.create_task(queue.submit([text(64)]))
    await engine.called(1)
    # a later deadline first: the timer must move forward
    later = asyncio.create_task(queue.submit([text(5)], deadline=time.monotonic() + 60))
    await turns()
    with pytest.raises(OverloadedError, match="nothing was started") as caught:
        await queue.submit([text(5)], deadline=time.monotonic() + 0.02)
    assert int(caught.value.headers()["retry-after"]) >= 1
    assert len(engine.calls) == 1
    engine.answer(0)
    await engine.called(2)
    engine.answer(1)
    await asyncio.gather(first, later)


async def test_a_full_queue_refuses_with_retry_after(engine: HeldEngine) -> None:
    queue = BatchQueue(BatchLimits(max_batch_tokens=64, max_queue_tokens=10), engine.run)
    tasks = [asyncio.create_task(queue.submit([text(9)]))]
    await engine.called(1)
    tasks.append(asyncio.create_task(queue.submit([text(9)])))
    await turns()
    with pytest.raises(OverloadedError, match="9 of at most 10 wait already") as caught:
        await queue.submit([text(9)])
    assert "retry-after" in caught.value.headers()
    await queue.close()
    assert all(isinstance(t.exception(), UnavailableError) for t in tasks)


async def test_a_failure_fails_its_batch_only(engine: HeldEngine, queue: BatchQueue) -> None:
    bad = asyncio.create_task(queue.submit([text(40, 1), text(40, 2)]))
    await engine.called(1)
    good = asyncio.create_task(queue.submit([text(40, 3)]))
    await turns()
    engine.fail(0, RuntimeError("out of luck"))
    with pytest.raises(RuntimeError, match="out of luck"):
        await bad
    await engine.called(2)
    engine.answer(1)
    assert [v.tolist() for v in await good] == [[40.0, 3.0]]
    assert [call[0][0] for call in engine.calls] == [1, 3]  # the other half never ran


async def test_a_lost_batch_runs_again_and_nobody_notices(
    engine: HeldEngine, queue: BatchQueue
) -> None:
    request = asyncio.create_task(queue.submit([text(5, 1)]))
    await engine.called(1)
    engine.fail(0, ReplicaGoneError("killed"))
    await engine.called(2)
    engine.answer(1)
    assert [v.tolist() for v in await request] == [[5.0, 1.0]]


async def test_a_request_that_kills_replicas_is_given_up(
    engine: HeldEngine, queue: BatchQueue
) -> None:
    request = asyncio.create_task(queue.submit([text(5, 1)]))
    for call in range(2):
        await engine.called(call + 1)
        engine.fail(call, ReplicaGoneError("killed"))
    with pytest.raises(ReplicaGoneError, match="killed"):
        await request
    assert queue.stats().waiting_items == 0


async def test_an_engine_that_loses_a_row_is_an_error(
    engine: HeldEngine, queue: BatchQueue
) -> None:
    request = asyncio.create_task(queue.submit([text(5), text(5)]))
    await engine.called(1)
    engine.answers[0].set_result(np.zeros((1, 2), np.float32))
    with pytest.raises(IroncliwError, match="1 vectors to 2 sequences"):
        await request


async def test_a_call_cancelled_from_below_is_unavailable(
    engine: HeldEngine, queue: BatchQueue
) -> None:
    request = asyncio.create_task(queue.submit([text(5)]))
    await engine.called(1)
    engine.answers[0].cancel()
    with pytest.raises(UnavailableError, match="the call to the engine was cancelled"):
        await request


async def test_close_fails_everything(engine: HeldEngine, queue: BatchQueue) -> None:
    running = asyncio.create_task(queue.submit([text(64)], deadline=time.monotonic() + 60))
    await engine.called(1)
    waiting = asyncio.create_task(queue.submit([text(5)]))
    await turns()
    await queue.close()
    for task in (running, waiting, asyncio.create_task(queue.submit([text(5)]))):
        with pytest.raises(UnavailableError, match="was closed"):
            await task
    assert engine.answers[0].cancelled()
    assert len(engine.calls) == 1


async def test_an_empty_request_is_refused(queue: BatchQueue) -> None:
    with pytest.raises(RequestError, match="give items of at least one token"):
        await queue.submit([])


async def test_the_observer_sees_each_batch(engine: HeldEngine, queue: BatchQueue) -> None:
    tasks = [asyncio.create_task(queue.submit([text(n), text(1)])) for n in (3, 4)]
    await engine.called(1)
    engine.answer(0)
    await asyncio.gather(*tasks)
    [(tokens, items, queue_seconds, seconds)] = engine.batches
    assert (tokens, items, len(queue_seconds)) == (9, 4, 2)
    assert all(0 <= wait < PATIENCE for wait in queue_seconds)
    assert 0 < seconds < PATIENCE


def adapter(name: str) -> AdapterCard:
    return AdapterCard(name, "tiny", f"dir:/{name}")


async def test_one_adapters_error_is_its_own_requests() -> None:
    calls: list[list[str | None]] = []

    async def run(items: list[Item]) -> Vectors:
        names = [each.adapter.name if isinstance(each, AdaptedTokens) else None for each in items]
        calls.append(names)
        if "gone" in names:
            raise AdapterError("its files are gone")
        return np.array([[len(each)] for each in items], np.float32)

    queue = BatchQueue(LIMITS, run)
    gone, whole = adapter("gone"), adapter("whole")
    found = await asyncio.gather(
        queue.submit([text(3)]),
        queue.submit([AdaptedTokens(text(4), gone), AdaptedTokens(text(5), gone)]),
        queue.submit([AdaptedTokens(text(6), whole), AdaptedTokens(text(7), whole)]),
        return_exceptions=True,
    )
    assert calls[0] == [None, "gone", "gone", "whole", "whole"]
    assert sorted(calls[1:], key=str) == [["gone", "gone"], ["whole", "whole"], [None]]
    assert [[row.tolist() for row in rows] for rows in (found[0], found[2])] == [[[3]], [[6], [7]]]  # type: ignore[union-attr]
    assert isinstance(found[1], AdapterError)
    with pytest.raises(AdapterError, match="are gone"):
        await queue.submit([AdaptedTokens(text(4), gone)])
    assert len(calls) == 5  # alone there is nothing to run apart
    await queue.close()


async def test_an_error_that_is_not_an_adapters_is_all_requests() -> None:
    calls = 0

    async def run(items: list[Item]) -> Vectors:
        nonlocal calls
        calls += 1
        raise OverloadedError("full", retry_after=1)

    queue = BatchQueue(LIMITS, run)
    asked = [queue.submit([text(3)]), queue.submit([AdaptedTokens(text(4), adapter("a"))])]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert calls == 1
    assert all(isinstance(each, OverloadedError) for each in found)
    await queue.close()
