"""The scheduler at work: steps in the compute thread, answers in the event loop.

A thin shell: what is computed is `serve.generation.scheduler`'s decision, how a token is drawn
`serve.generation.sampling`'s. One step at a time goes to the executor, so that whatever else the
executor runs (another model's batch) gets in between two steps.

Between two steps stands one hop: the compute thread calls back into the loop, which takes in the
tokens, plans and submits the next step, and only then lets the readers of the answers run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import NamedTuple

from ironcliw.errors import UnavailableError
from serve.generation.protocol import (
    Decoder,
    Delta,
    Finish,
    GenerationJob,
    GeneratorStats,
    TokenDraw,
)
from serve.generation.sampling import Scores, draw
from serve.generation.scheduler import GenerationLimits, Plan, Scheduler
from serve.generation.sequences import DecoderFacts

logger = logging.getLogger(__name__)


class _Computed(NamedTuple):
    """What a step gave: an outcome a logit row, and the seconds that it took."""

    outcomes: list[TokenDraw | Scores]
    seconds: float


class GenerationRunner:
    """Answers many jobs at once with one decoder; a `Generator`.

    Args:
        decoder: Used in the executor's thread alone, one call at a time.
        executor: Runs the steps; shared with other models, and not shut down here.
        limits: See `GenerationLimits`.
        clock: Seconds that never decrease.
    """

    def __init__(
        self,
        decoder: Decoder,
        executor: Executor,
        limits: GenerationLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decoder = decoder
        self._executor = executor
        self._clock = clock
        self._scheduler = Scheduler(DecoderFacts.of(decoder), limits)
        self._answers: dict[int, _Answer] = {}
        self._planned = self._computing = self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._device = threading.Lock()  # held while the decoder computes or is closed
        self.context = decoder.context
        self.device = decoder.device
        self.precision = decoder.precision
        self.resident_bytes = decoder.resident_bytes
        self.kv_bytes = decoder.kv_bytes

    async def generate(self, job: GenerationJob) -> AsyncGenerator[Delta, None]:
        """The answer as it grows; the last delta has `finish` or `scores`.

        The job starts with the first delta that is asked for. A reader that comes late gets one
        delta with all the tokens of the time in between.

        Raises:
            RequestError, ContextLengthError, OverloadedError, UnavailableError: see `Generator`.
            IroncliwError: the decoder failed in a step with this job in it.
        """
        if self._closed:
            raise _closed_error()
        self._loop = asyncio.get_running_loop()
        job_id = self._scheduler.submit(self._clock(), job)
        answer = self._answers[job_id] = _Answer(self._loop)
        self._wake()
        try:
            ended = False
            while not ended:
                delta = await answer.next()
                ended = delta.finish is not None or delta.scores is not None
                yield delta
        finally:
            if self._answers.pop(job_id, None):  # still there: the reader left
                # a job that has a slot is in a step, or planned for one: the plan after it frees it
                self._scheduler.cancel(job_id)

    def stats(self) -> GeneratorStats:
        """The generator now."""
        return self._scheduler.stats()

    def close(self) -> None:
        """End every job with UnavailableError and free the weights; waits for a step to end."""
        with self._device:
            if self._closed:
                return
            self._closed = True
            self._decoder.close()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._fail_all, _closed_error())

    def _wake(self) -> None:
        """Plan at the end of this turn of the loop, so that jobs of one turn share a step."""
        if not (self._planned or self._computing or self._closed):
            self._planned = True
            assert self._loop is not None
            self._loop.call_soon(self._advance)

    def _advance(self) -> None:
        self._planned = False
        if self._computing or self._closed:
            return
        plan = self._scheduler.next()
        if plan is None:
            return
        self._computing = True
        for job_id in plan.ended:
            self._deliver(job_id, Delta(finish="length"))
        try:
            future = self._executor.submit(self._compute, plan)
        except RuntimeError as error:  # the executor was shut down
            self._give_up(plan, error)
            return
        future.add_done_callback(partial(self._report, plan))

    def _compute(self, plan: Plan) -> _Computed:
        """Carry out a plan; in the compute thread."""
        with self._device:
            if self._closed:
                raise _closed_error()
            started = time.perf_counter()
            for slot in plan.free:
                self._decoder.free(slot)
            for slot, source in plan.begin:
                self._decoder.begin(slot, source)
            if plan.step is None:
                return _Computed([], 0.0)
            outcomes = draw(self._decoder.forward(plan.step), plan.contexts)
            return _Computed(outcomes, time.perf_counter() - started)

    def _report(self, plan: Plan, future: Future[_Computed]) -> None:
        """Hand a result over to the loop; called in the compute thread."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._receive, plan, future)

    def _receive(self, plan: Plan, future: Future[_Computed]) -> None:
        self._computing = False
        if future.cancelled():
            self._give_up(plan, UnavailableError("the step was cancelled; retry"))
        elif error := future.exception():
            self._fail_plan(plan, error)
        else:
            outcomes, seconds = future.result()
            deltas = self._scheduler.finished(self._clock(), plan, outcomes, seconds)
            for job_id, delta in deltas:
                self._deliver(job_id, delta)
        self._advance()

    def _fail_plan(self, plan: Plan, error: BaseException) -> None:
        lost = self._scheduler.failed(plan)
        if not self._closed:
            logger.error("a step with %d jobs failed: %r", len(lost), error, exc_info=error)
        for job_id in lost:
            if answer := self._answers.pop(job_id, None):
                answer.fail(error)

    def _give_up(self, plan: Plan, error: BaseException) -> None:
        """Nothing can be computed any more."""
        self._computing = False
        self._scheduler.failed(plan)
        logger.error("no step can be computed: %r", error)
        self._fail_all(UnavailableError("the model's compute thread has ended; retry"))

    def _deliver(self, job_id: int, delta: Delta) -> None:
        answer = self._answers.get(job_id)
        if answer is None:
            return
        if delta.finish is not None or delta.scores is not None:
            del self._answers[job_id]
        answer.add(delta)

    def _fail_all(self, error: UnavailableError) -> None:
        answers, self._answers = self._answers, {}
        for job_id, answer in answers.items():
            self._scheduler.cancel(job_id)
            answer.fail(error)


class _Answer:
    """What was drawn for one job and not yet read by its reader."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tokens: list[TokenDraw] = []
        self._finish: Finish | None = None
        self._scores: Scores | None = None
        self._error: BaseException | None = None
        self._reader: asyncio.Future[None] | None = None

    def add(self, delta: Delta) -> None:
        self._tokens += delta.tokens
        self._finish, self._scores = delta.finish, delta.scores
        self._notify()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._notify()

    async def next(self) -> Delta:
        """All that there is, at least something; tokens come before an error."""
        while not (self._tokens or self._finish or self._scores or self._error):
            self._reader = self._loop.create_future()
            await self._reader
        if self._error and not self._tokens:
            raise self._error
        delta = Delta(tuple(self._tokens), self._finish, self._scores)
        self._tokens.clear()
        return delta

    def _notify(self) -> None:
        if self._reader and not self._reader.done():
            self._reader.set_result(None)


def _closed_error() -> UnavailableError:
    return UnavailableError("the model was closed; retry")
