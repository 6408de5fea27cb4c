"""The post office of a process: finds the agent, chooses among several, sends, tries again."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from actors.agents.cell import Cell
from actors.agents.directory import Directory, DurableSend
from actors.agents.link import HostGoneError, HostLostError, Link, Remote
from actors.agents.memory import Memory
from actors.agents.messages import (
    DEFAULT_SECONDS,
    Message,
    MovedError,
    Priority,
    checked_name,
    new_id,
    priority_of,
)
from actors.agents.work import is_failure
from actors.breaker import Breakers
from actors.selection import Candidate, select
from ironcliw.errors import (
    DeadlineExceededError,
    IroncliwError,
    OverloadedError,
    RequestError,
)

_GRACE = 0.05
"""The agent breaks off at the deadline and says what it was at; that is waited for so long."""
_ANSWER_SECONDS = 2.0
"""A full mailbox refuses what was sent after `DEFAULT_SECONDS`; that is waited for so long."""
_TRIES = 4
"""How often an idempotent message is sent where processes end under it."""


class Exchange:
    """Sends the messages of one process: those of a host's agents, or those of a client.

    Args:
        sender: a name unlike that of any other process.
        directory: the registry.
        connect: name of a host -> the way to it.
        cells: agents of this process; their messages do not leave it.
    """

    def __init__(
        self,
        sender: str,
        directory: Directory,
        connect: Callable[[str], Remote],
        cells: Mapping[str, Cell] | None = None,
    ) -> None:
        self.sender = sender
        self.memory = Memory(directory)
        self.breakers = Breakers()
        self._connect = connect
        self._cells: Mapping[str, Cell] = {} if cells is None else cells
        self._links: dict[str, Link] = {}
        self._outstanding: Counter[str] = Counter()
        self._random = random.Random()
        self._loop = asyncio.get_running_loop()

    async def ask(
        self,
        target: str,
        body: Any = None,
        *,
        capability: str | None = None,
        deadline_seconds: float = DEFAULT_SECONDS,
        priority: Priority | str = Priority.NORMAL,
        strategy: str = "least_loaded",
        wait_seconds: float = 0.0,
        sender: str | None = None,
        durable: bool = False,
        attempts: int = 0,
        message_id: str | None = None,
        given_to: set[str] | None = None,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Any:
        """See `Agent.ask`.

        Args:
            sender: name of the agent that asks.
            durable: the message stands in the store.
            attempts: of a durable message, how often it was given to an agent before.
            message_id: for `AgentSystem.withdraw`; None: a new one.
            given_to: is told of each host that may have the message; one that was gone before it
                came is taken out again.
            waiting: entered while there is no agent that would take the message.
        """
        _check_seconds(deadline_seconds)
        deadline = self._loop.time() + deadline_seconds
        message = Message(
            message_id or new_id(),
            target,
            body,
            capability,
            sender,
            priority=priority if priority is Priority.NORMAL else priority_of(priority),
            deadline=deadline,
            durable=durable,
            attempts=attempts,
        )
        try:
            async with asyncio.timeout_at(deadline + _GRACE):
                if (cell := self._cells.get(target)) is not None:
                    with suppress(MovedError):  # it is looked up like any other
                        return await cell.post(message)
                hosts: set[str] = set() if given_to is None else given_to
                return await self._ask(target, message, strategy, wait_seconds, hosts, waiting)
        except TimeoutError:
            raise DeadlineExceededError(
                f"{target!r} did not answer within {deadline_seconds:g} s"
            ) from None

    async def _ask(
        self,
        target: str,
        message: Message,
        strategy: str,
        wait_seconds: float,
        given_to: set[str],
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> Any:
        asked = message.capability
        appears = self._loop.time() + wait_seconds
        for attempt in range(10_000):  # bounded by the deadline around it
            with waiting():
                found = await self._choose(target, message, asked, strategy, appears)
            # who names an agent means that one, whatever others of its kind have done
            guarded = message.capability == target and not message.durable
            breaker = self.breakers.of(target if guarded else None)
            breaker.enter(self._loop.time())
            given_to.add(found.host)  # also where it is given up before it has left
            try:
                answer = await self._post(found, message, wants_reply=True)
            except (MovedError, HostGoneError) as error:
                breaker.leave()
                if isinstance(error, HostGoneError):  # else a thread may go on with it there
                    given_to.discard(found.host)
                self.memory.forget(target)
                await asyncio.sleep(min(0.02 * 2**attempt, 0.5))
            except HostLostError:
                breaker.failed(self._loop.time())
                self.memory.forget(target)
                if message.capability not in found.idempotent or attempt >= _TRIES:
                    raise
                message.attempts += 1
                await asyncio.sleep(min(0.05 * 2**attempt, 1.0))
            except IroncliwError as error:
                breaker.ended(self._loop.time(), failed=_counts(error))
                raise
            except asyncio.CancelledError:
                if message.expired(self._loop.time()):  # no answer is a failure like another
                    breaker.failed(self._loop.time())
                else:  # whoever asked has given up
                    breaker.leave()
                raise
            else:
                breaker.succeeded()
                return answer
        raise AssertionError("unreachable: the deadline ends the loop")

    async def send(
        self,
        target: str,
        body: Any = None,
        *,
        capability: str | None = None,
        deadline_seconds: float | None = None,
        priority: Priority | str = Priority.NORMAL,
        durable: bool = False,
        key: str | None = None,
        sender: str | None = None,
    ) -> bool:
        """See `Agent.send`; False: an earlier message of this key stands for this one."""
        urgency = priority_of(priority)
        if deadline_seconds is not None:
            _check_seconds(deadline_seconds)
        if key is not None and not durable:
            raise RequestError(
                f"key {key!r} is for durable messages, of which the store knows those that came "
                "before; add durable=True, or leave it out",
                param="key",
            )
        if durable:
            sent = DurableSend(
                target, body, capability, sender, None, urgency, key, deadline_seconds
            )
            return await self.memory.directory.send_durable(sent) == sent.id
        now = self._loop.time()
        deadline = None if deadline_seconds is None else now + deadline_seconds
        message = Message(
            new_id(), target, body, capability, sender, priority=urgency, deadline=deadline
        )
        await self._send(target, message)
        return True

    async def _send(self, target: str, message: Message) -> None:
        try:
            async with asyncio.timeout(DEFAULT_SECONDS + _ANSWER_SECONDS):
                if (cell := self._cells.get(target)) is not None:
                    with suppress(MovedError):  # it is looked up like any other
                        if (later := cell.accept(message)) is not None:
                            await later
                        return
                await self._send_somewhere(target, message)
        except TimeoutError:
            raise DeadlineExceededError(
                f"{target!r} has not said within {DEFAULT_SECONDS:g} s that it took the message; "
                "it may have, or still do so"
            ) from None

    async def _send_somewhere(self, target: str, message: Message) -> None:
        asked = message.capability
        for attempt in range(10_000):  # bounded by the time around it
            found = await self._choose(target, message, asked, "least_loaded", 0.0)
            try:
                await self._post(found, message, wants_reply=False)
                return
            except (MovedError, HostGoneError):
                self.memory.forget(target)
                await asyncio.sleep(min(0.02 * 2**attempt, 0.5))
            except HostLostError:
                self.memory.forget(target)
                raise

    async def publish(
        self,
        topic: str,
        body: Any = None,
        *,
        priority: Priority | str = Priority.NORMAL,
        sender: str | None = None,
    ) -> int:
        """See `Agent.publish`. Those that cannot take it are passed over."""
        urgency = priority_of(priority)
        found = await self.memory.subscribers(checked_name(topic, "a topic"))
        sent = [
            self._publish_to(
                one, Message(new_id(), one.agent, body, None, sender, topic, priority=urgency)
            )
            for one in found
        ]
        results = await asyncio.gather(*sent, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, IroncliwError):
                raise result
        return sum(not isinstance(result, BaseException) for result in results)

    async def _publish_to(self, one: Candidate, message: Message) -> None:
        cell = self._cells.get(one.agent)
        if cell is None:
            await self._post(one, message, wants_reply=False)
        elif (later := cell.accept(message)) is not None:
            await later

    async def subscribe(self, topic: str, agent: str, *, on: bool) -> None:
        """Note that an agent of this process listens to a topic, or no longer does."""
        await self.memory.directory.subscribe(checked_name(topic, "a topic"), agent, on=on)
        self.memory.forget_topic(topic)

    async def find(self, capability: str, strategy: str) -> Candidate:
        """An agent that offers a capability, now.

        Raises:
            NotFoundError, UnavailableError: there is none.
        """
        listing = await self.memory.look_up(capability)
        return select(listing.candidates, strategy, self._outstanding.__getitem__, self._random)

    async def _choose(
        self, target: str, message: Message, asked: str | None, strategy: str, appears: float
    ) -> Candidate:
        now = self._loop.time()
        left = _left(message, now)
        unknown = max(0.0, min(appears - now, left))
        listing = await self.memory.look_up(target, left, unknown_seconds=unknown)
        found = select(listing.candidates, strategy, self._outstanding.__getitem__, self._random)
        message.recipient = found.agent
        message.capability = asked if listing.by_name else target
        return found

    async def _post(self, found: Candidate, message: Message, *, wants_reply: bool) -> Any:
        self._outstanding[found.agent] += 1
        try:
            cell = self._cells.get(found.agent)
            if cell is None:
                return await self._link(found.host).post(message, wants_reply=wants_reply)
            if wants_reply:
                return await cell.post(message)
            if (later := cell.accept(message)) is not None:
                await later
        except HostLostError:
            self._links.pop(found.host, None)
            raise
        finally:
            self._outstanding[found.agent] -= 1
            if not self._outstanding[found.agent]:
                del self._outstanding[found.agent]

    def _link(self, host: str) -> Link:
        if (link := self._links.get(host)) is None:
            link = self._links[host] = Link(self.sender, self._connect(host))
        return link

    def close(self) -> None:
        """Give up whatever is on its way."""
        for link in self._links.values():
            link.close()
        self._links.clear()


def _check_seconds(seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds > 0):
        raise RequestError(
            f"deadline_seconds is {seconds}; give a finite number above 0",
            param="deadline_seconds",
        )


def _left(message: Message, now: float) -> float:
    """How long to wait for an agent: the answer that there is none must come in time."""
    return (
        DEFAULT_SECONDS if message.deadline is None else max(0.0, message.deadline - now - _GRACE)
    )


def _counts(error: IroncliwError) -> bool:
    """Whether an error speaks against the capability; a full mailbox is no fault of it."""
    return is_failure(error) and not isinstance(error, OverloadedError)
