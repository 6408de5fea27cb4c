"""The scheduler at work: steps in the compute thread, answers in the event loop.

A thin shell: what is computed is `serve.generation.scheduler`'s decision, how a token is drawn
`serve.generation.sampling`'s. One step at a time goes to the executor, so that whatever else the
executor runs (another model's batch) gets in between two steps.

At the end of a step the compute thread itself takes in the tokens, plans the next step and submits
it; readers get their tokens from the event loop meanwhile. So the loop may be late, or busy with
other requests, and no step waits for it.

Two threads use the scheduler, under `_lock`, which is never held while something is computed. No
job is forgotten between them: `_computing` becomes false in the same hold of the lock in which the
scheduler had nothing to do, and a job is submitted under the lock and then `_advance` called. If it
was submitted before, the scheduler had it; if after, `_advance` finds `_computing` false.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import cast

from ironcliw.errors import UnavailableError, UnsupportedError
from serve.generation.delivery import Delivery
from serve.generation.protocol import (
    AdaptedDecoder,
    Decoder,
    Delta,
    GenerationJob,
    GeneratorStats,
    LoadedAdapter,
    TokenDraw,
)
from serve.generation.sampling import Scores, draw
from serve.generation.scheduler import GenerationLimits, Plan, Scheduler
from serve.generation.sequences import DecoderFacts

logger = logging.getLogger(__name__)


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
        self._lock = threading.Lock()  # of the scheduler and `_computing`
        self._computing = False  # a plan is in flight
        self._device = threading.Lock()  # held while the decoder computes or is closed
        self._closed = self._freed = False
        self._delivery = Delivery()
        self._planned = False  # the loop is about to call `_advance`
        self.context = decoder.context
        self.device = decoder.device
        self.precision = decoder.precision
        self.resident_bytes = decoder.resident_bytes
        self.kv_bytes = decoder.kv_bytes

    async def generate(self, job: GenerationJob) -> AsyncGenerator[Delta, None]:
        """The answer as it grows; the last delta has `finish` or `scores`.

        The job starts with the first delta that is asked for. A reader that comes late gets one
        delta with all the tokens of the time in between; so does, in effect, one whose job asks for
        several tokens at a time.

        Raises:
            RequestError, ContextLengthError, OverloadedError, UnavailableError: see `Generator`.
            IroncliwError: the decoder failed in a step with this job in it.
        """
        loop = self._delivery.use_running_loop()
        if self._closed:  # after the line above: whoever closes from now on tells this loop
            raise _closed_error()
        with self._lock:
            job_id = self._scheduler.submit(self._clock(), job)
        answer = self._delivery.open(job_id, job.delta_tokens)
        if not self._planned:
            # at the end of this turn of the loop, so that jobs of one turn share a step
            self._planned = True
            loop.call_soon(self._advance)
        try:
            ended = False
            while not ended:
                self._delivery.take()  # what came since the loop was woken belongs to this delta
                delta = await answer.next()
                ended = delta.finish is not None or delta.scores is not None
                yield delta
        finally:
            if self._delivery.close(job_id):  # the reader left, or the job failed
                # a job that has a slot is in a step, or planned for one: the plan after it frees it
                with self._lock:
                    self._scheduler.cancel(job_id)

    def read_adapter(self, folder: Path) -> LoadedAdapter:
        """An adapter for jobs of this generator; in any thread.

        Raises:
            UnsupportedError: this decoder computes no adapters.
            AdapterError: see `AdaptedDecoder`.
        """
        if not hasattr(self._decoder, "read_adapter"):
            raise UnsupportedError(
                f"the model runs on {self.device} in {self.precision}, where adapters are not "
                "computed: they need the compiled kernels on a CPU (`python -m native_ops`) and "
                "the engine `torch`; or merge the adapter and serve that as a model of its own",
                param="model",
            )
        decoder = cast(AdaptedDecoder, self._decoder)
        return decoder.read_adapter(folder)

    def stats(self) -> GeneratorStats:
        """The generator now."""
        with self._lock:
            return self._scheduler.stats()

    def close(self) -> None:
        """End every job with UnavailableError and free the weights; waits for a step to end."""
        # before the lock is asked for: the next step may get it first, and must find this
        self._closed = True
        with self._device:
            if self._freed:
                return
            self._freed = True
            self._decoder.close()
        self._delivery.call(partial(self._delivery.fail_all, _closed_error()))

    def _advance(self) -> None:
        """Begin to compute if nothing is computed; in the loop."""
        self._planned = False
        with self._lock:
            plan = None if self._computing else self._next()
        self._start(plan)

    def _next(self) -> Plan | None:
        """Plan a step; the lock is held."""
        plan = None if self._closed else self._scheduler.next()
        self._computing = plan is not None
        if plan is not None:
            self._delivery.add([(job_id, Delta(finish="length")) for job_id in plan.ended])
        return plan

    def _start(self, plan: Plan | None) -> None:
        """Have a plan carried out, and readers told of what there is since the last."""
        future = None
        if plan is not None:
            try:
                future = self._executor.submit(self._turn, plan)
            except RuntimeError as error:  # the executor was shut down
                self._give_up(plan, error)
        if not self._delivery.wake():
            self._abandon()
        if plan is not None and future is not None:
            future.add_done_callback(partial(self._check, plan))

    def _turn(self, plan: Plan) -> None:
        """Carry out a plan and go on with the next; in the compute thread."""
        outcomes, seconds = self._compute(plan)
        with self._lock:
            # added under the lock: deltas of one job must not overtake each other
            self._delivery.add(self._scheduler.finished(self._clock(), plan, outcomes, seconds))
            following = self._next()
        self._start(following)

    def _compute(self, plan: Plan) -> tuple[list[TokenDraw | Scores], float]:
        """An outcome for each of a plan's rows, and the seconds that they took."""
        with self._device:
            if self._closed:
                raise _closed_error()
            started = time.perf_counter()
            for slot in plan.free:
                self._decoder.free(slot)
            for slot, source in plan.begin:
                self._decoder.begin(slot, source)
            if plan.step is None:
                return [], 0.0
            outcomes = draw(self._decoder.forward(plan.step), plan.contexts)
            return outcomes, time.perf_counter() - started

    def _check(self, plan: Plan, future: Future[None]) -> None:
        """See to a turn that failed; called in any thread."""
        if future.cancelled():
            self._give_up(plan, UnavailableError("the step was cancelled; retry"))
        elif error := future.exception():
            with self._lock:
                self._computing = False
                lost = self._scheduler.failed(plan)
                self._delivery.add([(job_id, error) for job_id in lost])
            if not self._closed:
                logger.error("a step with %d jobs failed: %r", len(lost), error, exc_info=error)
            self._delivery.wake()
            self._delivery.call(self._advance)

    def _give_up(self, plan: Plan, error: BaseException) -> None:
        """Nothing can be computed any more."""
        with self._lock:
            self._computing = False
            self._scheduler.failed(plan)
        logger.error("no step can be computed: %r", error)
        ended = UnavailableError("the model's compute thread has ended; retry")
        self._delivery.call(partial(self._delivery.fail_all, ended))

    def _abandon(self) -> None:
        """Compute no further: the loop is closed, nobody reads."""
        with self._lock:
            for job_id in self._delivery.abandon():
                self._scheduler.cancel(job_id)


def _closed_error() -> UnavailableError:
    return UnavailableError("the model was closed; retry")
