"""The way from this process to one host: messages go together, answers come as they are ready.

What is asked or sent while the event loop is in one turn leaves in one call. The call brings back
the answers that are ready within a moment; for the others the host is asked, in one call that it
keeps open. So a lone question costs one call there and back, and a thousand hardly more; and the
end of the host's process is learned at once, because some call is always open while we wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from actors.agents.messages import Message, Parcel, to_parcel
from actors.agents.packing import unpack
from ironcliw.errors import IroncliwError, UnavailableError

BATCH = 256
"""Most messages of a call."""
CALLS = 4
"""Calls that are on their way at once; while they are, messages gather for the next."""

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
    """

    def __init__(self, sender: str, remote: Remote) -> None:
        self._sender = sender
        self._remote = remote
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Parcel] = deque()
        self._pending: dict[str, asyncio.Future[Any]] = {}
        self._calls = 0
        self._scheduled = False
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
        self._fail(HostLostError("this process sends nothing more"))

    def _schedule(self) -> None:
        if not self._scheduled and self._queue and self._calls < CALLS:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
        if batch:
            self._calls += 1
            self._start(self._deliver(batch))
        self._schedule()

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
            self._calls -= 1
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
        """Tell all who wait; those whose messages were never handed over are told just that."""
        self._late = 0
        kept = [*self._queue, *(batch if isinstance(error, HostGoneError) else ())]
        untouched = {parcel.fields[0] for parcel in kept}
        self._queue.clear()
        pending, self._pending = self._pending, {}
        for id_, future in pending.items():
            if not future.done():
                kind = HostGoneError if id_ in untouched else HostLostError
                # one each: a traceback would otherwise grow with every waiter
                future.set_exception(kind(error.message, retry_after=error.retry_after))
