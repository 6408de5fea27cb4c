"""A question that is asked again and again in a thread: whoever wants the answer never waits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Poller(Generic[T]):
    """Asks every few seconds, once at a time.

    Args:
        executor: Runs the question.
        ask: The question; what it raises of `failures` is an answer that is missing.
        period: Seconds from one question to the next.
        clock: Monotonic seconds.
        failures: Errors that pass. Any other is a defect, and `poll` raises it.
    """

    def __init__(
        self,
        executor: Executor,
        ask: Callable[[], T],
        period: float,
        clock: Callable[[], float],
        failures: tuple[type[Exception], ...],
    ) -> None:
        self._executor = executor
        self._ask = ask
        self.period = period
        self._clock = clock
        self._failures = failures
        self._future: Future[T] | None = None
        self._asked_at = float("-inf")
        self._answer: tuple[T, float] | None = None
        self.error: Exception | None = None
        """Why the last question has no answer; None: it has one."""

    def poll(self) -> T | None:
        """A new answer if there is one; asks the next question when it is due."""
        new: T | None = None
        if self._future is not None and self._future.done():
            future, self._future = self._future, None
            try:
                new = future.result()
            except self._failures as error:
                self.error = error
            else:
                # as old as the question
                self._answer, self.error = (new, self._asked_at), None
        now = self._clock()
        if self._future is None and now >= self._asked_at + self.period:
            self._asked_at = now
            self._future = self._executor.submit(self._ask)
        return new

    def fresh(self, longest: float) -> T | None:
        """The last answer, if its question is no older than `longest` seconds."""
        if self._answer is None or self._clock() - self._answer[1] > longest:
            return None
        return self._answer[0]
