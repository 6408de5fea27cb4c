"""From the compute thread to the readers of the answers, with one wake-up of the event loop a step.

What a step gave is put into a list and the loop is woken, unless it has not come yet since it was
woken last; the loop takes the whole list. So a loop that is late is woken once for many steps, and
one whose readers want several tokens at a time is left alone meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence

from serve.generation.protocol import Delta, Finish, TokenDraw
from serve.generation.sampling import Scores

News = tuple[int, Delta | BaseException]
"""A job, and what there is to say to its reader."""


class Delivery:
    """The answers that are being read, by job; belongs to one event loop.

    `add`, `wake` and `call` may be called in any thread, the others in the loop alone.
    """

    def __init__(self) -> None:
        self._answers: dict[int, PendingAnswer] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()  # of the news
        self._news: list[News] = []
        self._due = False  # a reader waits for something in the news
        self._woken = False

    def use_running_loop(self) -> asyncio.AbstractEventLoop:
        """Deliver to the loop that runs now."""
        self._loop = asyncio.get_running_loop()
        return self._loop

    def open(self, job_id: int, at_least: int = 1) -> PendingAnswer:
        """The answer to a job, to be read so many tokens at a time; the first alone."""
        assert self._loop is not None, "use_running_loop comes first"
        answer = self._answers[job_id] = PendingAnswer(self._loop, at_least)
        return answer

    def close(self, job_id: int) -> bool:
        """Stop reading; whether the answer was still to be continued."""
        return self._answers.pop(job_id, None) is not None

    def add(self, news: Sequence[News]) -> None:
        """Keep news for their readers until `wake`."""
        with self._lock:
            self._news += news
            for job_id, what in news:
                answer = self._answers.get(job_id)  # none: the job is being opened, or was left
                self._due |= answer is None or answer.is_due(what)

    def wake(self) -> bool:
        """Have the loop take what was added, if a reader waits for it.

        Returns:
            False: the loop is closed, nobody reads.
        """
        with self._lock:
            if self._woken or not self._due:
                return True
            self._woken = True
        return self.call(self.take)

    def call(self, function: Callable[[], object]) -> bool:
        """Have the loop call this; False: it is closed, or there is none."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function)
                return True
        return False

    def take(self) -> None:
        """Give what was added so far to its readers."""
        with self._lock:
            news, self._news = self._news, []
            self._due = self._woken = False
        for job_id, what in news:
            answer = self._answers.get(job_id)
            if answer is None:
                continue
            if isinstance(what, BaseException):
                answer.fail(what)
                continue
            if _ends(what):
                del self._answers[job_id]
            answer.add(what)

    def fail_all(self, error: BaseException) -> None:
        """End every answer with this error."""
        for answer in self._answers.values():
            answer.fail(error)

    def abandon(self) -> list[int]:
        """Forget everything, since the loop is closed; the jobs that were being read."""
        with self._lock:
            self._news = []
            self._due = self._woken = False
        abandoned = list(self._answers)
        self._answers.clear()
        return abandoned


class PendingAnswer:
    """What was drawn for one job and not yet read by its reader.

    Args:
        loop: The reader's.
        at_least: Fewest tokens of a delta that is neither the first nor the last.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, at_least: int = 1) -> None:
        self._loop = loop
        self._at_least = at_least
        self._wanted = 1  # tokens of the answer at which the next delta is due
        self._announced = 0  # tokens that `is_due` was told of
        self._read = 0
        self._tokens: list[TokenDraw] = []
        self._finish: Finish | None = None
        self._scores: Scores | None = None
        self._error: BaseException | None = None
        self._reader: asyncio.Future[None] | None = None

    def is_due(self, what: Delta | BaseException) -> bool:
        """Whether the reader waits for this; told of everything once, in the order of `add`.

        Called in any thread, before `add`.
        """
        if isinstance(what, BaseException):
            return True
        self._announced += len(what.tokens)
        return _ends(what) or self._announced >= self._wanted

    def add(self, delta: Delta) -> None:
        """Go on with it."""
        self._tokens += delta.tokens
        self._finish, self._scores = delta.finish, delta.scores
        self._notify()

    def fail(self, error: BaseException) -> None:
        """End it."""
        self._error = error
        self._notify()

    async def next(self) -> Delta:
        """All that there is, at least what is due; tokens come before an error."""
        while not self._is_enough():
            self._reader = self._loop.create_future()
            await self._reader
        if self._error and not self._tokens:
            raise self._error
        delta = Delta(tuple(self._tokens), self._finish, self._scores)
        self._read += len(self._tokens)
        self._wanted = self._read + self._at_least
        self._tokens.clear()
        return delta

    def _is_enough(self) -> bool:
        ended = self._finish or self._scores or self._error
        return bool(ended) or self._read + len(self._tokens) >= self._wanted

    def _notify(self) -> None:
        if self._reader and not self._reader.done() and self._is_enough():
            self._reader.set_result(None)


def _ends(delta: Delta) -> bool:
    """Whether it is an answer's last."""
    return delta.finish is not None or delta.scores is not None
