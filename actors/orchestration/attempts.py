"""Running attempts: started, timed, stopped, and told of exactly once."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Generic, Literal, TypeVar

from actors.workflow.seats import SEAT, Seat
from actors.workflow.tasks import Executor, StepError, StepResult, StepTask

_log = logging.getLogger(__name__)

StopReason = Literal["timeout", "turned", "moved", "left", "closing"]
"""turned: its workflow fails or is cancelled. left: its node has gone. closing: the orchestrator
ends, and the next one finds the attempt running."""
Outcome = StepResult | StepError | None
"""None: it was stopped because its workflow has turned, or its orchestrator was an earlier one."""
Owner = TypeVar("Owner")


class Attempt(Generic[Owner]):
    """One attempt that an executor works on.

    Attributes:
        owner: Whose it is.
        task: What the executor was handed.
        reason: Why it is being stopped; None: it is not.
    """

    __slots__ = ("_end", "_settled", "_timer", "_work", "owner", "reason", "task")

    def __init__(self, owner: Owner, task: StepTask) -> None:
        self.owner = owner
        self.task = task
        self.reason: StopReason | None = None
        self._settled = False
        self._timer: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[StepResult | None] | None = None


class Attempts(Generic[Owner]):
    """All attempts of an orchestrator.

    Args:
        executor: Does the work.
        stop_seconds: One that has not stopped so long after it was told is left behind.
        ended: Told of each attempt's outcome, except of those that were moved or ended by `close`.
    """

    def __init__(
        self,
        executor: Executor,
        stop_seconds: float,
        ended: Callable[[Attempt[Owner], Outcome], None],
    ) -> None:
        self._executor = executor
        self._stop_seconds = stop_seconds
        self._ended = ended
        self._running: dict[Attempt[Owner], None] = {}
        self._left_behind: set[asyncio.Task[StepResult | None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Attempt[Owner]]:
        return iter(list(self._running))

    def start(self, owner: Owner, task: StepTask, seat: Seat | None = None) -> Attempt[Owner]:
        """Hands the task to the executor, which may give up the seat while it only waits."""
        context = contextvars.copy_context()
        if seat is not None:
            context.run(SEAT.set, seat)
        attempt = self._begin(Attempt(owner, task), self._executor.run(task), context)
        if task.timeout_seconds is not None:
            loop = asyncio.get_running_loop()
            attempt._timer = loop.call_later(task.timeout_seconds, self.stop, attempt, "timeout")
        return attempt

    def end(self, owner: Owner, task: StepTask) -> None:
        """Has the executor end an attempt of an earlier orchestrator; None when it has."""
        self._begin(Attempt(owner, task), self._executor.end(task), contextvars.copy_context())

    def _begin(
        self,
        attempt: Attempt[Owner],
        work: Coroutine[Any, Any, StepResult | None],
        context: contextvars.Context,
    ) -> Attempt[Owner]:
        self._running[attempt] = None
        attempt._work = asyncio.get_running_loop().create_task(work, context=context)
        attempt._work.add_done_callback(lambda work: self._done(attempt, work))
        return attempt

    def stop(self, attempt: Attempt[Owner], reason: StopReason) -> None:
        """Tells the executor to stop; the outcome follows when it has, or is overdue."""
        if attempt.reason is not None or attempt._settled:
            return
        assert attempt._work is not None, "it was started"
        attempt.reason = reason
        attempt._work.cancel(reason)
        self._time(attempt, self._stop_seconds)

    def stop_at(self, attempt: Attempt[Owner], seconds: float, reason: StopReason) -> None:
        """Stops it so many seconds from now, unless it ends before; the first call counts."""
        if attempt._end is None:
            loop = asyncio.get_running_loop()
            attempt._end = loop.call_later(max(seconds, 0.0), self.stop, attempt, reason)

    def abandon(self, attempt: Attempt[Owner], reason: StopReason) -> None:
        """Stops it and forgets it at once: what it may still answer is dropped."""
        self.stop(attempt, reason)
        self._settle(attempt)

    async def wait(self, seconds: float) -> None:
        """Waits until one of them ends, but no longer than that."""
        works = {attempt._work for attempt in self._running if attempt._work is not None}
        if works:
            await asyncio.wait(works, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Stops all and waits until they have, or are overdue."""
        for attempt in self:
            self.abandon(attempt, "closing")
        if self._left_behind:
            await asyncio.wait(set(self._left_behind), timeout=self._stop_seconds)

    def _time(self, attempt: Attempt[Owner], seconds: float) -> None:
        if attempt._timer is not None:
            attempt._timer.cancel()
        loop = asyncio.get_running_loop()
        attempt._timer = loop.call_later(seconds, self._overdue, attempt)

    def _overdue(self, attempt: Attempt[Owner]) -> None:
        if not attempt._settled:
            _log.warning(
                "attempt %d of %s was told to stop %.0f s ago and has not; it is left behind",
                attempt.task.attempt,
                attempt.task.key,
                self._stop_seconds,
            )
            self._settle(attempt)
            outcome = _stopped(attempt)
            if attempt.reason in ("turned", "timeout"):
                # its workflow may go on to undo it
                words = "; it was told to stop, has not, and may still be at it"
                told = "its workflow has turned" if outcome is None else outcome.message
                outcome = StepError("unstopped", told + words)
            self._ended(attempt, outcome)

    def _settle(self, attempt: Attempt[Owner]) -> None:
        attempt._settled = True
        self._running.pop(attempt, None)
        for timer in (attempt._timer, attempt._end):
            if timer is not None:
                timer.cancel()
        if attempt._work is not None and not attempt._work.done():
            self._left_behind.add(attempt._work)  # or it would be collected in mid-course

    def _done(self, attempt: Attempt[Owner], work: asyncio.Task[StepResult | None]) -> None:
        self._left_behind.discard(work)
        # one that is cancelled before its first turn never comes to tidy up after itself
        self._executor.forget(attempt.task)
        outcome = _outcome(attempt, work)
        if not attempt._settled:
            self._settle(attempt)
            self._ended(attempt, outcome)


def _outcome(attempt: Attempt[Owner], work: asyncio.Task[StepResult | None]) -> Outcome:
    if work.cancelled():
        return _stopped(attempt)
    error = work.exception()
    if error is None:
        return work.result()
    if isinstance(error, StepError):
        return error
    _log.error("the executor failed on %s", attempt.task.key, exc_info=error)
    # nobody knows how far it came: as if it had done its work
    return StepError("error", f"{type(error).__name__}: {error}", acted=True)


def _stopped(attempt: Attempt[Owner]) -> StepError | None:
    match attempt.reason:
        case "turned":
            return None
        case "timeout":
            return StepError(
                "timeout",
                f"it had not ended after {attempt.task.timeout_seconds:g} s; give it more by "
                "`timeout_seconds`, or less to do",
            )
        case "left" | "moved":
            return StepError("moved", "its node went away before it had ended")
        case _:
            return StepError("lost", "its executor was cancelled")
