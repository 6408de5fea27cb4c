"""The messages that an agent works on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from concurrent import futures
from typing import Any

from actors.agents.messages import Message
from actors.agents.options import Capability
from actors.agents.threads import Threads
from ironcliw.errors import IroncliwError

Work = asyncio.Future[Any] | futures.Future[Any]
"""What is done when a method has ended: its task, or its place among the threads."""


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
        pooled: a plain method's place among those that wait for a thread, or have one.
    """

    __slots__ = (
        "_alarm",
        "_begun",
        "capability",
        "instead",
        "limit",
        "message",
        "pooled",
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
        self.pooled: futures.Future[Any] | None = None
        if not capability.plain:
            self._begin(started)

    def _begin(self, now: float) -> None:
        self._begun = now
        if (seconds := self.capability.timeout_seconds) is not None:
            self.limit = now + seconds if self.limit is None else min(self.limit, now + seconds)

    def begin_in_thread(
        self,
        method: Callable[[Any], Any],
        threads: Threads,
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
            self.pooled = threads.submit(method, self.message.body)
        else:
            self.pooled = threads.submit(run)
        return asyncio.wrap_future(self.pooled, loop=loop)

    def recall(self, why: IroncliwError) -> bool:
        """Whether it was a plain method that no thread had begun with, and that none will now.

        Args:
            why: what its asker is told.
        """
        if self.pooled is None or self.pooled.cancelled() or not self.pooled.cancel():
            return False
        self.instead = why
        return True

    def work(self, future: asyncio.Future[Any]) -> Work:
        """What is done when its method has ended; `future` may be cancelled before a thread ends.

        Args:
            future: what the agent waits for.
        """
        return future if self.pooled is None else self.pooled

    def silence(self) -> None:
        """Ring no more."""
        if self._alarm is not None:
            self._alarm.cancel()

    @property
    def in_thread(self) -> bool:
        """Whether it is a plain method that runs, or may begin any time."""
        return self.pooled is not None and not self.pooled.cancelled()

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


class Jobs(dict[asyncio.Future[Any], Job]):
    """All of an agent, by what has their ends."""

    @property
    def in_thread(self) -> bool:
        """Whether a plain method runs now, so that the state may be between two of its values."""
        return any(job.in_thread for job in self.values())

    @property
    def pooled(self) -> list[futures.Future[Any]]:
        """What plain methods that run, or wait for a thread, are to the pool of threads."""
        return [job.pooled for job in self.values() if job.pooled is not None]

    @property
    def starved(self) -> bool:
        """Whether plain methods wait for a thread, and none of them has one."""
        waiting = [work for work in self.pooled if not work.done()]
        return bool(waiting) and not any(work.running() for work in waiting)

    def overdue_seconds(self, now: float) -> float:
        """Since when the one that is longest past its time should have ended."""
        return max((job.overdue_seconds(now) for job in self.values()), default=0.0)

    def recall(self, why: IroncliwError) -> list[Message]:
        """Have plain methods that wait for a thread not begin; their messages.

        Args:
            why: what whoever asked is told.
        """
        return [job.message for job in self.values() if job.recall(why)]

    def break_off(self, message_id: str, why: IroncliwError) -> Work | None:
        """Break a message's work off, if it can be; what has its end, or None: there is none.

        Args:
            message_id: of it.
            why: what whoever asked is told.
        """
        for future, job in self.items():
            if job.message.id == message_id:
                if not job.capability.plain:
                    job.instead = why
                    future.cancel()
                job.recall(why)
                return job.work(future)
        return None

    def break_off_idempotent(self, moved: IroncliwError, asked: Container[str]) -> None:
        """Break off what is asked for again elsewhere, if it can be.

        Args:
            moved: what whoever asks is told.
            asked: ids of messages whose answers somebody waits for.
        """
        for future, job in self.items():
            # a thread cannot be broken off, and what nobody asks for again would be lost
            if job.capability.idempotent and not job.capability.plain:
                if job.message.id in asked:
                    job.instead = moved
                    future.cancel()

    def begin_anew(self, moved: IroncliwError) -> list[Message]:
        """Messages that did not end in time, and may be begun anew elsewhere.

        Args:
            moved: what whoever asks is told.
        """
        found = [job for job in self.values() if job.capability.idempotent and not job.instead]
        for job in found:
            job.instead = moved
        return [job.message for job in found]
