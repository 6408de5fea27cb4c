"""One agent at work, from its start to its end: takes messages, and has it work on them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from actors.agent import Agent, Listener
from actors.agents.askers import Askers
from actors.agents.dispatch import Dispatch
from actors.agents.executor import Executor
from actors.agents.intake import Intake
from actors.agents.jobs import Work
from actors.agents.lanes import Lanes
from actors.agents.messages import DEFAULT_SECONDS, Message, MovedError, withdrawn
from actors.agents.options import AgentOptions
from actors.agents.reports import AgentReport
from actors.agents.threads import Threads
from actors.agents.work import named
from ironcliw.errors import AgentError, IroncliwError, UnavailableError


class Cell:
    """Runs an agent on the event loop that is running.

    Args:
        name: of the agent.
        agent: constructed, not started.
        options: how it wants to be run.
        threads: where its plain methods run.
    """

    def __init__(self, name: str, agent: Agent, options: AgentOptions, threads: Threads) -> None:
        self.name = name
        self.agent = agent
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._dispatch = Dispatch(name, agent)
        self._askers = Askers(name)
        self._intake = Intake(name, options, self._dispatch, self._askers)
        self._lanes = Lanes(agent.capabilities)
        self._executor = Executor(
            name,
            self._dispatch,
            self._lanes,
            self._askers,
            threads,
            self._pump,
            options.memory_limit_gb,
        )
        self._jobs = self._executor.jobs
        self._starting: asyncio.Task[None] | None = None
        self._held = False  # begin with nothing more

    async def start(self) -> None:
        """Have the agent start; `close` breaks it off.

        Raises:
            AgentError: it was closed before it had started.
            Exception: whatever its `on_start` raises.
        """
        if not self._held:
            # its name tells whose code it is that keeps the event loop for itself
            self._starting = self._loop.create_task(self._start(), name=f"agent:{self.name}")
            await asyncio.wait([self._starting])
        if self._starting is None or self._starting.cancelled() or self._held:
            raise AgentError(f"agent {self.name!r} was stopped while it started")
        self._starting.result()

    async def _start(self) -> None:
        await self.agent.on_start()

    def post(self, message: Message) -> asyncio.Future[Any]:
        """Put a message into the mailbox; the future has the agent's answer.

        Raises:
            OverloadedError: the mailbox is full.
            MovedError: the agent is leaving; it has not begun with the message.
            RequestError: the agent lacks the capability.
        """
        answer = self._askers.expect(message.id)
        try:
            if self._put(message):
                return answer
        except IroncliwError:
            self._askers.forget(message.id)
            raise
        return asyncio.ensure_future(self._post_later(message, answer))

    async def _post_later(self, message: Message, answer: asyncio.Future[Any]) -> Any:
        try:
            await self._put_when_there_is_room(message, None)
            return await answer
        finally:
            self._askers.forget(message.id)

    def accept(self, message: Message) -> asyncio.Future[None] | None:
        """Put a message into the mailbox, whose answer nobody wants.

        Returns:
            None: it is there. Else the mailbox is full and its senders wait, for half a minute at
            most; the future is done when it is there.

        Raises:
            OverloadedError, MovedError, RequestError: as `post`.
        """
        if self._put(message):
            return None
        return asyncio.ensure_future(self._put_when_there_is_room(message, DEFAULT_SECONDS))

    def _put(self, message: Message) -> bool:
        if found_room := self._intake.put(message):
            self._pump()
        return found_room

    async def _put_when_there_is_room(self, message: Message, longest: float | None) -> None:
        await self._intake.put_when_there_is_room(message, longest)
        self._pump()

    def listen(self, topic: str, listener: Listener | None) -> None:
        """Have what is published under a topic given to a coroutine; None: no longer."""
        self._dispatch.listen(topic, listener)

    @property
    def topics(self) -> list[str]:
        """Those that the agent listens to."""
        return self._dispatch.topics

    def report(self) -> AgentReport:
        """How it fares; its tallies begin anew."""
        mailbox = self._intake.mailbox
        return AgentReport(
            self.name,
            len(mailbox),
            len(self._jobs),
            self._jobs.overdue_seconds(self._loop.time()),
            self._executor.failed or self._complaint(),
            self._executor.tallies.take(),
            tuple(self.topics),
            mailbox.by_priority,
            *self._intake.take_counts(),
            self._askers.take_unheard(),
            self._jobs.starved,
        )

    def _complaint(self) -> str | None:
        try:
            return None if self.agent.healthy() else "it says that it is not healthy"
        except Exception as error:  # noqa: BLE001 - boundary: the user's method
            return f"healthy() raised {named(error)}"

    @property
    def in_thread(self) -> bool:
        """Whether a plain method runs now, so that the state may be between two of its values."""
        return self._jobs.in_thread

    @contextlib.asynccontextmanager
    async def between_methods(self, seconds: float) -> AsyncIterator[bool]:
        """Have no plain method begin; gives whether none runs, or none any more.

        Args:
            seconds: for those that run to end.
        """
        try:
            with self._lanes.hold_plain():
                await self._executor.wait(seconds, lambda: not self.in_thread)
                yield not self.in_thread
        finally:
            self._pump()

    async def finish(self, seconds: float) -> None:
        """Take nothing more; return when all that is there is dealt with, or after `seconds`."""
        stopping = UnavailableError(f"agent {self.name!r} is being stopped", code="stopping")
        self._intake.refuse(stopping)
        await self._executor.wait(seconds, lambda: not self._jobs and not len(self._intake.mailbox))
        self._jobs.recall(stopping)

    async def hold(self, seconds: float) -> list[Message]:
        """Take nothing more and begin with nothing more; finish what was begun.

        Whoever waits for the answer to a message that was not begun, or that may be begun anew, is
        told `MovedError`, which has it sent to the agent's new place.

        Args:
            seconds: what takes longer is broken off.

        Returns:
            The messages whose answers nobody waits for, and that were not begun, or may be begun
            anew and did not end in time.
        """
        moved = MovedError(f"agent {self.name!r} is moving to another process", retry_after=0.1)
        self._held = True
        self._intake.refuse(moved)
        self._jobs.break_off_idempotent(moved, self._askers)
        rest = [*self._unasked(self._jobs.recall(moved)), *self._intake.empty(moved)]
        await self._executor.wait(seconds, lambda: not self._jobs)
        return [*self._unasked(self._jobs.begin_anew(moved)), *rest]

    def _unasked(self, messages: list[Message]) -> list[Message]:
        return [message for message in messages if message.id not in self._askers]

    def hurry(self, seconds: float) -> None:
        """Wait no longer than that for what the agent is at, where somebody waits for it."""
        self._executor.hurry(seconds)

    async def close(self, reason: str) -> None:
        """Break off whatever is there; the senders are told."""
        # none of these was begun, so whoever asks may be sent elsewhere
        gone = MovedError(f"agent {self.name!r} {reason}", retry_after=0.1)
        self._held = True
        self._intake.refuse(self._intake.refusal or gone)
        self._intake.empty(gone)
        tasks = [*self._jobs, *([self._starting] if self._starting else [])]
        running, pooled = [task for task in tasks if not task.done()], self._jobs.pooled
        for future in running:
            future.cancel()
        if running:
            # one that will not be cancelled is left behind
            await asyncio.wait(running, timeout=0.5)
        self._threads.leave(pooled)

    def withdraw(self, message_id: str) -> Work | None:
        """Do nothing more for a message, whoever waits for its answer.

        Args:
            message_id: of it; of a message that is not here nothing is done anyway.

        Returns:
            Work that was begun, broken off if it can be: a thread cannot be.
        """
        if (begun := self._jobs.break_off(message_id, withdrawn())) is not None:
            return begun
        if (message := self._intake.mailbox.remove(message_id)) is not None:
            self._askers.tell(message, withdrawn())
            self._pump()  # whoever waits for its place has it
        else:  # it may wait for room
            self._askers.withdraw(message_id)
        return None

    @property
    def under_way(self) -> Iterator[tuple[Work, str]]:
        """Work that has not ended, each with its message's id."""
        return ((job.work(future), job.message.id) for future, job in self._jobs.items())

    def _pump(self) -> None:
        """Begin with what waits, as far as hands are free."""
        while not self._held:
            message = self._intake.take(None if self._lanes.all_free else self._lanes.is_free)
            if message is None:
                break
            self._executor.begin(message)
        self._intake.let_in()
