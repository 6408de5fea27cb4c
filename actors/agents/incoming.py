"""What comes to a process's agents from other processes, and the answers that go back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from actors.agents.answers import LateAnswers
from actors.agents.cell import Cell
from actors.agents.link import Outcome
from actors.agents.messages import Message, MovedError, Parcel, from_parcel, withdrawn
from actors.agents.packing import pack
from ironcliw.errors import AgentError, IroncliwError

logger = logging.getLogger(__name__)

LINGER_SECONDS = 0.002
"""A call waits so long for the answers to its messages; those that take longer are collected."""
FETCH_SECONDS = 2.0
"""How long a process that ends waits for its last answers to be fetched."""
MOST_WITHDRAWN = 10_000
"""Messages that are not taken if they come after they were withdrawn."""
_ON_THE_WAY_SECONDS = 0.1  # an answer that was fetched is still to be sent


class Incoming:
    """Gives messages to the agents of this process: its end of `Remote`.

    Args:
        cells: those agents.

    Attributes:
        late: answers that came after the calls which brought their messages.
    """

    def __init__(self, cells: Mapping[str, Cell]) -> None:
        self._cells = cells
        self._loop = asyncio.get_running_loop()
        self.late = LateAnswers()
        self._withdrawn: dict[str, None] = {}

    async def deliver(self, sender: str, parcels: list[Parcel]) -> list[Outcome | None]:
        """See `Remote.deliver`."""
        now = self._loop.time()
        found = [self._take_in(parcel, now) for parcel in parcels]
        waiting = [one for one in found if isinstance(one, asyncio.Future) and not one.done()]
        if waiting:
            await self._linger(waiting)
        outcomes: list[Outcome | None] = []
        for parcel, one in zip(parcels, found, strict=True):
            if not isinstance(one, asyncio.Future):
                outcomes.append(one)
            elif one.done():
                outcomes.append(_outcome(one))
            else:
                outcomes.append(None)
                one.add_done_callback(self._keeper(sender, parcel.fields[0]))
        return outcomes

    async def _linger(self, waiting: Sequence[asyncio.Future[Any]]) -> None:
        """Return when all are done, or in a moment; `asyncio.wait` takes longer over many."""
        over: asyncio.Future[None] = self._loop.create_future()
        left = len(waiting)

        def one_is_done(_: asyncio.Future[Any]) -> None:
            nonlocal left
            left -= 1
            if not left:
                enough()

        def enough() -> None:
            if not over.done():
                over.set_result(None)

        for one in waiting:
            one.add_done_callback(one_is_done)
        alarm = self._loop.call_later(LINGER_SECONDS, enough)
        try:
            await over
        finally:
            alarm.cancel()

    def _take_in(self, parcel: Parcel, now: float) -> Outcome | asyncio.Future[Any]:
        try:
            message = from_parcel(parcel, now)
            if message.id in self._withdrawn:
                raise withdrawn()
            cell = self._cells.get(message.recipient)
            if cell is None:
                raise MovedError(f"agent {message.recipient!r} is not here", retry_after=0.1)
            if parcel.wants_reply:
                return cell.post(message)
            return cell.accept(message) or (True, None)
        except IroncliwError as error:
            return False, error

    def _keeper(self, sender: str, id_: str) -> Callable[[asyncio.Future[Any]], None]:
        def keep(future: asyncio.Future[Any]) -> None:
            self.late.keep(sender, id_, _outcome(future))

        return keep

    async def collect(self, sender: str) -> list[tuple[str, Outcome]]:
        """See `Remote.collect`."""
        return await self.late.collect(sender)

    def refuse(self, message_id: str) -> None:
        """Do not take a message that comes only now, because its sender took it back."""
        self._withdrawn[message_id] = None
        if len(self._withdrawn) > MOST_WITHDRAWN:
            del self._withdrawn[next(iter(self._withdrawn))]

    async def replay(self, parcels: list[Parcel]) -> None:
        """Give an agent that came from elsewhere the messages that it had accepted there."""
        for parcel in parcels:
            message: Message = from_parcel(parcel, self._loop.time())
            try:
                if (cell := self._cells.get(message.recipient)) is not None:
                    cell.accept(message)
            except IroncliwError as error:  # its sender has gone on long since
                logger.error("agent %s: a message is lost: %s", message.recipient, error)

    async def answers_fetched(self) -> None:
        """Return when nobody has late answers to fetch any more, or after two seconds."""
        deadline = self._loop.time() + FETCH_SECONDS
        # no event for it: this is at the end of a process alone
        while self.late.waiting and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(_ON_THE_WAY_SECONDS)


def _outcome(future: asyncio.Future[Any]) -> Outcome:
    if future.cancelled():
        return False, MovedError("the agent was stopped", retry_after=0.1)
    error = future.exception()
    if error is not None and not isinstance(error, IroncliwError):
        error = AgentError(f"{type(error).__name__}: {error}")
    try:
        if error is not None:
            # its class may be the user's own, and unknown to whoever asked
            return False, pack(error, "the error of an agent")
        return True, pack(future.result(), "the answer of an agent")
    except IroncliwError as not_sent:
        return False, not_sent
