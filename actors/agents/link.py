"""The way from this process to one host: messages go together, answers come as they are ready.

What is asked or sent while the event loop is in one turn leaves together, and so does what comes
while others are on their way (`pace.py`). A call brings back the answers that are ready within a
moment; for the others the host is asked, in one call that it keeps open. So a lone question costs
one call there and back, and a thousand hardly more; and the end of the host's process is learned at
once, because some call is always open while we wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from actors.agents.messages import Message, Parcel, to_parcel
from actors.agents.pace import Pace
from actors.agents.packing import unpack
from ironcliw.errors import IroncliwError, UnavailableError

_ROUNDED_SECONDS = 0.001
"""uvloop, on which Ray runs actors, knows whole milliseconds alone."""

Outcome = tuple[bool, Any]
"""(True, packed value) or (False, error)."""


class HostLostError(UnavailableError):
    """The process that ran the agent is gone, or cannot be reached."""

    default_code = "agent_lost"
    how = ""
    """How it ended, for its supervisor; empty: nobody knows, or it is another process's error."""


class HostGoneError(HostLostError):
    """The process had gone before anything was handed over: nothing has happened."""


class Remote(Protocol):
    """A host, seen from another process.

    Both methods raise `HostLostError`; `deliver` raises `HostGoneError` where it can tell.
    """

    async def deliver(self, sender: str, parcels: list[Parcel]) -> list[Outcome | None]:
        """Hand messages over; for each what came of it, or None: to be collected."""

    async def collect(self, sender: str) -> list[tuple[str, Outcome]]:
        """Wait for outcomes that were late: (message's id, outcome); perhaps none."""


class Link:
    """Messages of one process to one host.

    Args:
        sender: unlike that of any other process.
        remote: the host.
        clock: monotonic seconds; an event loop's own may stand still during a turn.
    """

    def __init__(
        self, sender: str, remote: Remote, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sender = sender
        self._remote = remote
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Parcel] = deque()
        self._pending: dict[str, asyncio.Future[Any]] = {}
        self._pace = Pace()
        self._scheduled = False
        self._alarm: asyncio.TimerHandle | None = None
        self._late = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def post(self, message: Message, *, wants_reply: bool) -> asyncio.Future[Any]:
        """Send a message; the future has the answer, or None once it is in the mailbox.

        Raises:
            RequestError: its body cannot be sent to another process.
        """
        parcel = to_parcel(message, self._loop.time(), wants_reply=wants_reply)
        future = self._pending[message.id] = self._loop.create_future()
        self._queue.append(parcel)
        self._schedule()
        return future

    def close(self) -> None:
        """Give up whatever is on its way."""
        for task in self._tasks:
            task.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
        self._fail(HostLostError("this process sends nothing more"))

    def _schedule(self) -> None:
        if not self._scheduled and self._queue:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        now = self._clock()
        while size := self._pace.next_batch(len(self._queue), now):
            self._pace.left(now)
            self._start(self._deliver([self._queue.popleft() for _ in range(size)]))
        if self._queue and self._pace.free and self._alarm is None:
            self._alarm = self._loop.call_later(self._pace.due - now, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        now = self._clock()
        if self._pace.due - now < _ROUNDED_SECONDS:
            self._pace.due = now
        self._flush()

    def _start(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, batch: list[Parcel]) -> None:
        try:
            outcomes = await self._remote.deliver(self._sender, batch)
        except HostLostError as error:
            self._fail(error, batch)
            return
        except UnavailableError as error:
            for parcel in batch:
                self._resolve(parcel.fields[0], (False, error))
            return
        finally:
            self._pace.returned()
            self._schedule()
        late = 0
        for parcel, outcome in zip(batch, outcomes, strict=True):
            if outcome is None:
                late += 1
            else:
                self._resolve(parcel.fields[0], outcome)
        if late:
            collects = self._late > 0
            self._late += late
            if not collects:
                self._start(self._collect())

    async def _collect(self) -> None:
        while self._late > 0:
            try:
                found = await self._remote.collect(self._sender)
            except UnavailableError as error:
                self._fail(HostLostError(error.message))
                return
            for id_, outcome in found:
                self._late -= 1
                self._resolve(id_, outcome)

    def _resolve(self, id_: str, outcome: Outcome) -> None:
        future = self._pending.pop(id_, None)
        if future is None or future.done():  # its sender gave up
            return
        good, value = outcome
        try:
            if good:
                future.set_result(unpack(value))
            else:
                future.set_exception(unpack(value))
        except IroncliwError as error:
            future.set_exception(error)

    def _fail(self, error: HostLostError, batch: Sequence[Parcel] = ()) -> None:
        """Tell all who wait; those whose messages were never handed over are told just that.

        Args:
            error: what has come of a call. `HostGoneError` speaks for that call alone: others that
                are on their way find out for themselves.
            batch: what the call took along.
        """
        gone = isinstance(error, HostGoneError)
        kept = [*self._queue, *(batch if gone else ())]
        self._queue.clear()
        self._tell([parcel.fields[0] for parcel in kept], HostGoneError, error)
        if not gone:
            self._late = 0
            self._tell(list(self._pending), HostLostError, error)

    def _tell(self, ids: Sequence[str], kind: type[HostLostError], error: HostLostError) -> None:
        for id_ in ids:
            future = self._pending.pop(id_, None)
            if future is not None and not future.done():
                # one each: a traceback would otherwise grow with every waiter
                future.set_exception(kind(error.message, retry_after=error.retry_after))
