"""The batcher at work in an event loop: awaitable submissions, timers, calls to the engine.

A thin shell: every decision is `serve.batcher.Batcher`'s. Submissions of one turn of the event
loop are planned together at its end, so that requests read from the network at once share a batch;
nothing ever waits for a time to pass. All methods belong to the loop that runs them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ironcliw.errors import (
    DeadlineExceededError,
    IroncliwError,
    OverloadedError,
    UnavailableError,
)
from serve.batch_parts import Item, failed, run_in_parts
from serve.batcher import Batch, Batcher, BatchLimits, Plan, Priority, QueueStats
from serve.engines.protocol import Vectors

__all__ = ["BatchObserver", "BatchQueue", "Item", "Vector"]

Vector = npt.NDArray[np.float32]
Run = Callable[[list[Item]], Awaitable[Vectors]]

logger = logging.getLogger(__name__)


class BatchObserver(Protocol):
    """Sees every batch that succeeded, for histograms."""

    def on_batch(
        self, tokens: int, items: int, queue_seconds: Sequence[float], seconds: float
    ) -> None:
        """Called when the batch has come back.

        Args:
            tokens: Sum of the items' lengths.
            items: Texts in the batch.
            queue_seconds: The wait of each request that started with this batch.
            seconds: From sending to answer; includes the wait behind another batch in flight.
        """
        ...


@dataclass(slots=True)
class _Pending:
    sequences: Sequence[Item]
    rows: list[Vector]
    future: asyncio.Future[list[Vector]]
    losses: int = 0


class BatchQueue:
    """Batches requests for one model.

    Args:
        limits: See `BatchLimits`.
        run: Sends sequences to the engine; returns float32 [B, D], in order.
        clock: Seconds that never decrease; deadlines are on it.
        observer: Told of every batch that succeeded.
        retry_on: Errors of `run` that say that the batch was lost and may run again (a replica
            died). Any other error fails the requests of the batch, and only those; one that an
            adapter may have, only those under it.
        max_losses: A request that was lost so many times fails with the last of these errors, so
            that one that kills replicas does not kill them all.
    """

    def __init__(
        self,
        limits: BatchLimits,
        run: Run,
        clock: Callable[[], float] = time.monotonic,
        *,
        observer: BatchObserver | None = None,
        retry_on: tuple[type[Exception], ...] = (),
        max_losses: int = 3,
    ) -> None:
        self._batcher = Batcher(limits)
        self._run = run
        self._clock = clock
        self._observer = observer
        self._retry_on = retry_on
        self._max_losses = max_losses
        self._pending: dict[int, _Pending] = {}
        self._tasks: set[asyncio.Task[Sequence[Any]]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._planned = False
        self._closed = False

    async def submit(
        self,
        sequences: Sequence[Item],
        *,
        priority: Priority = Priority.NORMAL,
        deadline: float | None = None,
    ) -> list[Vector]:
        """One vector, float32 [D], for each sequence, in order.

        Cancelling the caller drops what has not been sent to the engine yet.

        Args:
            sequences: At least one; each int32 [T], T >= 1.
            priority: See `Priority`.
            deadline: On the queue's clock, seconds.

        Raises:
            RequestError: no sequences, or an empty one.
            OverloadedError: refused or shed, nothing was computed; says when to come back.
            DeadlineExceededError: the deadline passed while it was computed.
            UnavailableError: the queue was closed.
        """
        if self._closed:
            raise _closed_error()
        lengths = [len(sequence) for sequence in sequences]
        request_id = self._batcher.submit(
            self._clock(), lengths, priority=priority, deadline=deadline
        )
        loop = asyncio.get_running_loop()
        pending = _Pending(sequences, [_NOTHING] * len(sequences), loop.create_future())
        self._pending[request_id] = pending
        if not self._planned:
            self._planned = True
            loop.call_soon(self._advance)
        try:
            return await pending.future
        finally:
            if self._pending.pop(request_id, None):  # still there: the caller was cancelled
                self._batcher.cancel(request_id)

    def stats(self) -> QueueStats:
        """The queue now."""
        return self._batcher.stats(self._clock())

    def in_flight_seconds(self) -> float | None:
        """Estimated time until all that was sent is served; None until one batch was seen."""
        return self._batcher.in_flight_seconds(self._clock())

    async def close(self) -> None:
        """Fail every request with UnavailableError and cancel what is in flight."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
        for request_id in list(self._pending):
            self._fail(request_id, _closed_error())
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _advance(self) -> None:
        """Carry out the batcher's plans until there is nothing to do."""
        self._planned = False
        if self._closed:
            return
        now = self._clock()
        while True:
            plan = self._batcher.next(now)
            self._refuse(plan)
            if plan.batch is None:
                break
            self._send(plan.batch)
        self._set_timer(now)

    def _send(self, batch: Batch) -> None:
        sequences = [self._pending[request].sequences[item] for request, item in batch.items]
        task = asyncio.create_task(run_in_parts(self._call, sequences))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._receive(batch, done))

    async def _call(self, sequences: list[Item]) -> Vectors:
        vectors = await self._run(sequences)
        if len(vectors) != len(sequences):
            raise IroncliwError(
                f"the engine answered {len(vectors)} vectors to {len(sequences)} sequences: "
                "this is a fault of the engine, please report it"
            )
        return vectors

    def _receive(self, batch: Batch, task: asyncio.Task[Sequence[Any]]) -> None:
        self._tasks.discard(task)
        error: BaseException | None
        if task.cancelled():
            error = UnavailableError("the call to the engine was cancelled; retry")
        else:
            error = task.exception()
        if self._closed:
            return
        now = self._clock()
        if error is None:
            self._deliver(batch, task.result(), now)
        elif isinstance(error, self._retry_on):
            self._retry(batch, error, now)
        else:
            logger.warning("batch of %d items failed: %r", len(batch.items), error)
            for request_id in self._batcher.finished(now, batch.id, ok=False):
                self._fail(request_id, error)
        self._advance()

    def _deliver(self, batch: Batch, results: Sequence[Any], now: float) -> None:
        for request_id, error in failed(results, [request for request, _ in batch.items]).items():
            self._batcher.cancel(request_id)
            if request_id in self._pending:
                self._fail(request_id, error)
        for (request_id, item), vector in zip(batch.items, results, strict=True):
            if pending := self._pending.get(request_id):
                pending.rows[item] = vector
        for request_id in self._batcher.finished(now, batch.id, ok=True):
            pending = self._pending.pop(request_id)
            if not pending.future.done():
                pending.future.set_result(pending.rows)
        if self._observer:
            seconds = now - batch.started
            self._observer.on_batch(batch.tokens, len(batch.items), batch.queue_seconds, seconds)

    def _retry(self, batch: Batch, error: BaseException, now: float) -> None:
        logger.warning("batch of %d items was lost, to run again: %r", len(batch.items), error)
        for request_id in {request for request, _ in batch.items}:
            pending = self._pending.get(request_id)
            if pending is None:
                continue
            pending.losses += 1
            if pending.losses >= self._max_losses:
                self._batcher.cancel(request_id)
                self._fail(request_id, error)
        self._batcher.requeue(now, batch.id)

    def _refuse(self, plan: Plan) -> None:
        for request_id in plan.shed:
            message = "the deadline can no longer be met and nothing was started; retry later"
            self._fail(request_id, OverloadedError(message, retry_after=plan.retry_after))
        for request_id in plan.expired:
            message = "the deadline passed while the request was computed; allow more time"
            self._fail(request_id, DeadlineExceededError(message))

    def _fail(self, request_id: int, error: BaseException) -> None:
        pending = self._pending.pop(request_id)
        if not pending.future.done():
            pending.future.set_exception(error)

    def _set_timer(self, now: float) -> None:
        """One timer, for the earliest deadline; a timer that is too early only sets the next."""
        deadline = self._batcher.next_deadline()
        if deadline is None:
            return
        when = asyncio.get_running_loop().time() + max(0.0, deadline - now)
        if self._timer:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._advance()


_NOTHING: Vector = np.empty(0, np.float32)


def _closed_error() -> UnavailableError:
    return UnavailableError("the queue of this model was closed; retry")
