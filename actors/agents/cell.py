"""One agent at work: its mailbox, the messages that it works on, and what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from actors.agent import Agent, Listener
from actors.agents.jobs import Job, Jobs, Work
from actors.agents.mailbox import Mailbox, Overflow
from actors.agents.messages import DEFAULT_SECONDS, Message, MovedError, withdrawn
from actors.agents.options import AgentOptions, Capability
from actors.agents.reports import AgentReport
from actors.agents.room import Room
from actors.agents.threads import Threads
from actors.agents.work import Tallies, call, what_it_raised
from ironcliw.errors import (
    AgentError,
    DeadlineExceededError,
    IroncliwError,
    OverloadedError,
    RequestError,
    UnavailableError,
)

logger = logging.getLogger(__name__)

_MESSAGE = Capability("on_message", "on_message")


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
        self.options = options
        self.mailbox = Mailbox(options.mailbox, options.overflow)
        self.failed: str | None = None
        """Why it is of no use any more."""
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._jobs = Jobs()
        self._busy: dict[str, int] = {}
        self._listeners: dict[str, Listener] = {}
        self._room = Room()
        self._unwanted: set[str] = set()
        self._one_ended = asyncio.Event()
        self._limits: set[asyncio.Timeout] = set()  # of those who wait for that
        self._starting: asyncio.Task[None] | None = None
        self._held = False  # begin with nothing more
        self._plain_held = 0  # begin with no plain method, for so many
        self._refusal: IroncliwError | None = None  # what senders are told; None: welcome
        self._tallies = Tallies()
        self._full = self._expired = self._unheard = 0  # since the last report

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
        answer = self._answers[message.id] = self._loop.create_future()
        try:
            if self._put(message):
                return answer
        except IroncliwError:
            del self._answers[message.id]
            raise
        return asyncio.ensure_future(self._post_later(message, answer))

    async def _post_later(self, message: Message, answer: asyncio.Future[Any]) -> Any:
        try:
            await self._put_when_there_is_room(message, None)
            return await answer
        finally:
            self._answers.pop(message.id, None)
            self._unwanted.discard(message.id)

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

    def listen(self, topic: str, listener: Listener | None) -> None:
        """Have what is published under a topic given to a coroutine; None: no longer."""
        if listener is None:
            self._listeners.pop(topic, None)
        else:
            self._listeners[topic] = listener

    @property
    def topics(self) -> list[str]:
        """Those that the agent listens to."""
        return list(self._listeners)

    def report(self) -> AgentReport:
        """How it fares; its tallies begin anew."""
        since = self._full, self._expired, self._unheard
        self._full = self._expired = self._unheard = 0
        return AgentReport(
            self.name,
            len(self.mailbox),
            len(self._jobs),
            self._jobs.overdue_seconds(self._loop.time()),
            self.failed or self._complaint(),
            self._tallies.take(),
            tuple(self._listeners),
            self.mailbox.by_priority,
            *since,
            self._jobs.starved,
        )

    def _complaint(self) -> str | None:
        try:
            return None if self.agent.healthy() else "it says that it is not healthy"
        except Exception as error:  # noqa: BLE001 - boundary: the user's method
            return f"healthy() raised {type(error).__name__}: {error}"

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is worked on."""
        return not self._jobs and not len(self.mailbox)

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
        self._plain_held += 1
        try:
            await self._quiet(seconds, lambda: not self.in_thread)
            yield not self.in_thread
        finally:
            self._plain_held -= 1
            self._pump()

    async def finish(self, seconds: float) -> None:
        """Take nothing more; return when all that is there is dealt with, or after `seconds`."""
        stopping = UnavailableError(f"agent {self.name!r} is being stopped", code="stopping")
        self._refuse(stopping)
        await self._quiet(seconds, lambda: self.idle)
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
        self._refuse(moved)
        self._jobs.break_off_idempotent(moved, self._answers)
        rest = self._unasked(self._jobs.recall(moved))
        for message in self.mailbox.drain():
            if message.id in self._answers:
                self._resolve(message, moved)
            else:
                rest.append(message)
        await self._quiet(seconds, lambda: not self._jobs)
        return [*self._unasked(self._jobs.begin_anew(moved)), *rest]

    def _unasked(self, messages: list[Message]) -> list[Message]:
        return [message for message in messages if message.id not in self._answers]

    def hurry(self, seconds: float) -> None:
        """Wait no longer than that for what the agent is at, where somebody waits for it."""
        at = self._loop.time() + seconds
        for limit in self._limits:
            if not limit.expired() and at < (limit.when() or 0.0):
                limit.reschedule(at)

    async def close(self, reason: str) -> None:
        """Break off whatever is there; the senders are told."""
        # none of these was begun, so whoever asks may be sent elsewhere
        gone = MovedError(f"agent {self.name!r} {reason}", retry_after=0.1)
        self._held = True
        self._refuse(self._refusal or gone)
        for message in self.mailbox.drain():
            self._resolve(message, gone)
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
        if (message := self.mailbox.remove(message_id)) is not None:
            self._resolve(message, withdrawn())
            self._pump()  # whoever waits for its place has it
        elif message_id in self._answers:  # it waits for room
            self._unwanted.add(message_id)
        return None

    @property
    def under_way(self) -> Iterator[tuple[Work, str]]:
        """Work that has not ended, each with its message's id."""
        return ((job.work(future), job.message.id) for future, job in self._jobs.items())

    def _refuse(self, error: IroncliwError) -> None:
        self._refusal = error
        self._room.refuse(error)

    async def _quiet(self, seconds: float, condition: Callable[[], bool]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds) as limit:
                self._limits.add(limit)
                try:
                    while not condition():
                        self._one_ended.clear()
                        await self._one_ended.wait()
                finally:
                    self._limits.discard(limit)

    def _put(self, message: Message) -> bool:
        """False: the mailbox is full, and whoever sends may wait."""
        if self._refusal is not None:
            raise self._refusal
        if self._room:
            return False
        admission = self.mailbox.put(message, self._capability(message).lane)
        if admission.displaced is not None:
            self._resolve(
                admission.displaced, self._overloaded("its place was taken by a newer message")
            )
        elif not admission.accepted:
            if self.mailbox.overflow is Overflow.WAIT:
                return False
            raise self._overloaded(f"{len(self.mailbox)} messages wait already")
        self._pump()
        return True

    async def _put_when_there_is_room(self, message: Message, longest: float | None) -> None:
        while True:
            left = None if message.deadline is None else message.deadline - self._loop.time()
            limits = [limit for limit in (left, longest) if limit is not None]
            try:
                await self._room.turn(min(limits, default=None))
            except TimeoutError:
                raise self._overloaded("there was no room before the deadline") from None
            if self._refusal is not None:
                raise self._refusal
            if self.mailbox.full:
                continue
            if message.id in self._unwanted:
                self._room.let_in()  # the next one, in its stead
                raise withdrawn()
            self.mailbox.put(message, self._capability(message).lane)
            self._pump()
            return

    def _overloaded(self, why: str) -> OverloadedError:
        self._full += 1
        return OverloadedError(
            f"the mailbox of agent {self.name!r} is full: {why}; send less, raise its `mailbox` "
            f"({self.options.mailbox}) or start another such agent",
            code="mailbox_full",
        )

    def _capability(self, message: Message) -> Capability:
        if message.capability is None:
            if message.topic is not None:
                return Capability(f"topic {message.topic}", "")
            return _MESSAGE
        found = self.agent.capabilities.get(message.capability)
        if found is None:
            known = ", ".join(sorted(self.agent.capabilities)) or "none"
            raise RequestError(
                f"agent {self.name!r} has no capability {message.capability!r} (it has: {known})",
                param="capability",
            )
        return found

    def _is_free(self, lane: str) -> bool:
        found = self.agent.capabilities.get(lane)
        if self._plain_held and (not lane or (found is not None and found.plain)):
            return False
        return self._busy.get(lane, 0) < (found.concurrency if found else 1)

    def _pump(self) -> None:
        """Begin with what waits, as far as hands are free."""
        while not self._held:
            is_free = self._is_free if self._busy or self._plain_held else None
            message = self.mailbox.take(self._loop.time(), is_free)
            for late in self.mailbox.expired:
                self._resolve(late, _too_late(self.name, "it waited in the mailbox"))
            self._expired += len(self.mailbox.expired)
            self.mailbox.expired.clear()
            if message is None:
                break
            self._begin(message, self._capability(message))
        if not self.mailbox.full:
            self._room.let_in()  # it puts its message first, and then wakes the next

    def _begin(self, message: Message, capability: Capability) -> None:
        job = Job(message, capability, self._loop.time())
        lane = capability.lane
        self._busy[lane] = self._busy.get(lane, 0) + 1
        future: asyncio.Future[Any]
        if capability.plain:
            method = getattr(self.agent, capability.method)
            future = job.begin_in_thread(method, self._threads, self._loop, self._ring)
        else:
            coroutine = call(job, self._handler(message, capability))
            future = self._loop.create_task(coroutine, name=f"agent:{self.name}")
        self._jobs[future] = job
        future.add_done_callback(self._ended)

    def _handler(self, message: Message, capability: Capability) -> Awaitable[Any]:
        if capability is _MESSAGE:
            return self.agent.on_message(message)
        if message.topic is not None and message.capability is None:
            listener = self._listeners.get(message.topic, _nobody)
            return listener(message.body)
        result: Awaitable[Any] = getattr(self.agent, capability.method)(message.body)
        return result

    def _ring(self, job: Job) -> None:
        """A thread cannot be broken off: its asker is told, its lane stays busy until it ends."""
        if not job.recall(_too_late(self.name, "no thread was free for its method")):
            self._resolve(job.message, _too_late(self.name, "its method is still at it"))

    def _ended(self, future: asyncio.Future[Any]) -> None:
        job = self._jobs.pop(future)
        self._one_ended.set()
        job.silence()
        lane = job.capability.lane
        if (busy := self._busy[lane] - 1) > 0:
            self._busy[lane] = busy
        else:
            del self._busy[lane]
        error = what_it_raised(future, job, self.name)
        if isinstance(error, IroncliwError) and error.code == "agent_broken":
            self.failed = error.message
        self._tallies.count(job, self._loop.time(), error)
        self._resolve(job.message, error, None if error else future.result())
        self._pump()

    def _resolve(self, message: Message, error: BaseException | None, value: Any = None) -> None:
        answer = self._answers.pop(message.id, None)
        self._unwanted.discard(message.id)
        if answer is None:
            if error is not None and not isinstance(error, MovedError):
                self._unheard += 1
                what = message.capability or "on_message"
                logger.warning("agent %s: a message for %s failed: %s", self.name, what, error)
        elif not answer.done():
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)


def _too_late(name: str, why: str) -> DeadlineExceededError:
    return DeadlineExceededError(f"agent {name!r} did not answer in time: {why}")


async def _nobody(_body: Any) -> None:
    """For what was published before the agent stopped listening."""
