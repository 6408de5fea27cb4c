"""Runs an agent's methods for its messages, and sees to their ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from actors.agents.askers import Askers
from actors.agents.dispatch import Dispatch
from actors.agents.jobs import Job, Jobs
from actors.agents.lanes import Lanes
from actors.agents.messages import Message
from actors.agents.threads import Threads
from actors.agents.work import Tallies, call, too_late, what_it_raised
from ironcliw.errors import IroncliwError


class Executor:
    """Has one agent work on its messages.

    Args:
        name: of the agent.
        dispatch: knows its methods.
        lanes: whether one more may begin is asked of them before `begin`.
        askers: are told what became of their messages.
        threads: where its plain methods run.
        freed: called when it has ended with a message, so that another one may begin.
        memory_limit_gb: beyond which its process gets no memory.

    Attributes:
        jobs: what the agent works on.
        tallies: what became of its messages.
        failed: why the agent is of no use any more.
    """

    def __init__(
        self,
        name: str,
        dispatch: Dispatch,
        lanes: Lanes,
        askers: Askers,
        threads: Threads,
        freed: Callable[[], None],
        memory_limit_gb: float | None = None,
    ) -> None:
        self._name = name
        self._memory_limit_gb = memory_limit_gb
        self._loop = asyncio.get_running_loop()
        self._dispatch = dispatch
        self._lanes = lanes
        self._askers = askers
        self._threads = threads
        self._freed = freed
        self.jobs = Jobs()
        self.tallies = Tallies()
        self.failed: str | None = None
        self._one_ended = asyncio.Event()
        self._limits: set[asyncio.Timeout] = set()  # of those who wait for that

    def begin(self, message: Message) -> None:
        """Begin with a message whose lane is free."""
        capability = self._dispatch.capability(message)
        job = Job(message, capability, self._loop.time())
        self._lanes.enter(capability.lane)
        future: asyncio.Future[Any]
        if capability.plain:
            method = self._dispatch.method(capability)
            future = job.begin_in_thread(method, self._threads, self._loop, self._ring)
        else:
            coroutine = call(job, self._dispatch.coroutine(message, capability))
            future = self._loop.create_task(coroutine, name=f"agent:{self._name}")
        self.jobs[future] = job
        future.add_done_callback(self._ended)

    def _ring(self, job: Job) -> None:
        """A thread cannot be broken off: its asker is told, its lane stays busy until it ends."""
        if not job.recall(too_late(self._name, "no thread was free for its method")):
            self._askers.tell(job.message, too_late(self._name, "its method is still at it"))

    def _ended(self, future: asyncio.Future[Any]) -> None:
        job = self.jobs.pop(future)
        self._one_ended.set()
        job.silence()
        self._lanes.leave(job.capability.lane)
        error = what_it_raised(future, job, self._name, self._memory_limit_gb)
        if isinstance(error, IroncliwError) and error.code == "agent_broken":
            self.failed = error.message
        self.tallies.count(job, self._loop.time(), error)
        self._askers.tell(job.message, error, None if error else future.result())
        self._freed()

    async def wait(self, seconds: float, condition: Callable[[], bool]) -> None:
        """Return when a condition holds, after `seconds`, or as soon as `hurry` says.

        Args:
            seconds: the longest that it takes.
            condition: looked at now, and whenever the agent has ended with a message.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds) as limit:
                self._limits.add(limit)
                try:
                    while not condition():
                        self._one_ended.clear()
                        await self._one_ended.wait()
                finally:
                    self._limits.discard(limit)

    def hurry(self, seconds: float) -> None:
        """Have nobody `wait` for longer than that from now on."""
        at = self._loop.time() + seconds
        for limit in self._limits:
            if not limit.expired() and at < (limit.when() or 0.0):
                limit.reschedule(at)
