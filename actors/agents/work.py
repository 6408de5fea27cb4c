"""One message in the hands of an agent: how long it may take, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent import futures
from dataclasses import dataclass
from typing import Any

from actors.agents.messages import Message
from actors.agents.options import Capability
from actors.agents.reports import Tally
from ironcliw.errors import AgentError, DeadlineExceededError, IroncliwError, UnavailableError


class Job:
    """A message that is being worked on.

    Args:
        message: it.
        capability: what it asks for.
        started: moment of the monotonic clock.

    Attributes:
        limit: moment at which its asker gives up, or its capability's time is over; None: never. Of
            a plain method the latter counts from when a thread has begun with it.
        instead: what its asker is told where it is broken off, such as to ask elsewhere.
    """

    __slots__ = (
        "_alarm",
        "_begun",
        "_pooled",
        "capability",
        "instead",
        "limit",
        "message",
        "started",
    )

    def __init__(self, message: Message, capability: Capability, started: float) -> None:
        self.message = message
        self.capability = capability
        self.started = started
        self.limit = message.deadline
        self.instead: IroncliwError | None = None
        self._begun: float | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._pooled: futures.Future[Any] | None = None
        if not capability.plain:
            self._begin(started)

    def _begin(self, now: float) -> None:
        self._begun = now
        if (seconds := self.capability.timeout_seconds) is not None:
            self.limit = now + seconds if self.limit is None else min(self.limit, now + seconds)

    def begin_in_thread(
        self,
        method: Callable[[Any], Any],
        threads: futures.Executor,
        loop: asyncio.AbstractEventLoop,
        ring: Callable[[Job], None],
    ) -> asyncio.Future[Any]:
        """Have a plain method called with the message's body; what it returns.

        Args:
            method: it.
            threads: it waits until one is free.
            loop: the one that is running.
            ring: called at `limit`.
        """

        def set_alarm() -> None:
            if self.limit is not None:
                self._alarm = loop.call_at(self.limit, ring, self)

        def begun(now: float) -> None:
            self.silence()
            self._begin(now)
            set_alarm()

        def run() -> Any:
            loop.call_soon_threadsafe(begun, loop.time())
            return method(self.message.body)

        set_alarm()
        if self.capability.timeout_seconds is None:  # it need not tell when it is begun
            self._pooled = threads.submit(method, self.message.body)
        else:
            self._pooled = threads.submit(run)
        return asyncio.wrap_future(self._pooled, loop=loop)

    def recall(self, why: IroncliwError) -> bool:
        """Whether it was a plain method that no thread had begun with, and that none will now.

        Args:
            why: what its asker is told.
        """
        if self._pooled is None or self._pooled.cancelled() or not self._pooled.cancel():
            return False
        self.instead = why
        return True

    def silence(self) -> None:
        """Ring no more."""
        if self._alarm is not None:
            self._alarm.cancel()

    @property
    def in_thread(self) -> bool:
        """Whether it is a plain method that runs, or may begin any time."""
        return self._pooled is not None and not self._pooled.cancelled()

    def overdue_seconds(self, now: float) -> float:
        """Since when it should have ended.

        A coroutine is broken off at its limit. A thread cannot be: nobody can blame it for what its
        asker is ready to wait, only for what its own capability says.
        """
        if not self.capability.plain:
            return 0.0 if self.limit is None else max(0.0, now - self.limit)
        seconds = self.capability.timeout_seconds
        if self._begun is None or seconds is None:
            return 0.0
        return max(0.0, now - self._begun - seconds)


async def call(job: Job, work: Awaitable[Any]) -> Any:
    """What an agent's coroutine answers, or `DeadlineExceededError` at the job's limit."""
    limit = asyncio.timeout_at(job.limit)
    try:
        async with limit:
            return await work
    except TimeoutError:
        if not limit.expired() or job.limit is None:  # the agent's own
            raise
        raise DeadlineExceededError(
            f"{job.capability.name!r} took longer than the {job.limit - job.started:.2g} s that it "
            "had, and was broken off"
        ) from None
    except SystemExit as error:
        # it would end the event loop, and every agent on it
        raise AgentError(
            f"{job.capability.name!r} called sys.exit({error.code!r})", code="agent_broken"
        ) from None


def what_it_raised(future: asyncio.Future[Any], job: Job, agent: str) -> IroncliwError | None:
    """The error that the asker is told; None: there was none.

    An error with the code "agent_broken" says that the agent itself is of no use any more.
    """
    if future.cancelled():
        return job.instead or UnavailableError(
            f"agent {agent!r} was stopped while it worked on {job.capability.name!r}",
            code="agent_lost",
        )
    error = future.exception()
    if error is None or isinstance(error, IroncliwError):
        return error
    # what is raised need not be known to the asker's process, so it goes as text
    text = f"agent {agent!r}: {job.capability.name!r} raised {type(error).__name__}: {error}"
    broken = isinstance(error, MemoryError) or not isinstance(error, Exception)
    failed = AgentError(text, code="agent_broken" if broken else None)
    failed.__cause__ = error
    return failed


def is_failure(error: BaseException | None) -> bool:
    """Whether an error speaks against the agent; those that the sender can mend do not."""
    if error is None:
        return False
    return not isinstance(error, IroncliwError) or error.kind != "invalid_request_error"


@dataclass(slots=True)
class Tallies:
    """What became of an agent's messages since somebody asked last."""

    _found: dict[str, Tally] | None = None

    def count(self, job: Job, now: float, error: BaseException | None) -> None:
        """One more is dealt with."""
        if self._found is None:
            self._found = {}
        name = job.capability.name
        if (tally := self._found.get(name)) is None:
            tally = self._found[name] = Tally()
        tally.calls += 1
        tally.failures += is_failure(error)
        tally.seconds += now - job.started

    def take(self) -> dict[str, Tally]:
        """All of it; the counts begin anew."""
        found, self._found = self._found, None
        return found or {}
