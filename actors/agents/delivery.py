"""Durable messages on their way from the store to the agents.

A message is committed before its sender is told so; it is counted as delivered, in the store,
before an agent sees it; and it is done when the agent's method has returned. So whatever ends in
between, it is given again, and one that ends its agent's process each time is found out by its
count of deliveries. A store that is away is waited for: what was not committed has not happened.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from actors.agents.directory import DurableSend
from actors.agents.exchange import Exchange
from actors.agents.figures import Figures
from actors.agents.messages import Priority, checked_name
from actors.agents.recipients import Recipients
from actors.agents.records import AgentStore
from actors.message_records import MessageRow
from ironcliw.errors import (
    IroncliwError,
    OverloadedError,
    RequestError,
    StoreError,
)

logger = logging.getLogger(__name__)

ATTEMPT_SECONDS = 600.0
"""How long an agent may be at a durable message that has no deadline."""
LARGEST_BODY = 1_000_000
"""Bytes of JSON."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
_LONGEST_STORE_PAUSE = 5.0
_PASSED = "its deadline has passed"


class Deliveries:
    """Keeps giving durable messages to their recipients.

    Args:
        store: where they are.
        exchange: the way to the agents.
        most_attempts: name of an agent or a capability -> deliveries after which a message is dead.
        figures: counts dead letters.
    """

    def __init__(
        self,
        store: AgentStore,
        exchange: Exchange,
        most_attempts: Callable[[str], int],
        figures: Figures,
    ) -> None:
        self._store = store
        self._exchange = exchange
        self._most_attempts = most_attempts
        self._recipients = Recipients(exchange.memory)
        self._figures = figures
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Take up what is not done."""
        for row in await self._store.open_messages():
            self._carry(row)

    async def send(self, message: DurableSend) -> str:
        """Commit a message and set out; returns its id.

        Raises:
            RequestError: the body is nothing that JSON can write, or is too large.
        """
        checked_name(message.target, "an agent")
        _check_body(message.body)
        now = time.time()
        deadline = None if message.deadline_seconds is None else now + message.deadline_seconds
        row = MessageRow(
            message.id,
            message.target,
            # the capability is part of what is said
            {"capability": message.capability, "body": message.body},
            message.priority,
            now,
            sender=message.sender,
            topic=message.topic,
            key=message.key,
            deadline=deadline,
        )
        id_ = await self._store.add_message(row)
        if id_ == row.id:
            self._carry(row)
        return id_

    async def replay(self, message_id: str) -> MessageRow:
        """Send a dead letter once more, as if it had never been delivered.

        Raises:
            NotFoundError: there is none of this id.
        """
        row = await self._store.replay(message_id)
        self._carry(row)
        return row

    @property
    def on_the_way(self) -> int:
        """Messages that are not done."""
        return len(self._tasks)

    async def close(self) -> None:
        """Leave the rest for the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._recipients.close()

    def _carry(self, row: MessageRow) -> None:
        if row.id not in self._tasks:
            task = asyncio.create_task(self._deliver(row), name=f"durable:{row.id}")
            self._tasks[row.id] = task
            task.add_done_callback(partial(self._carried, row.id))

    def _carried(self, message_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(message_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # a bug, of which nobody else would hear; the store has the message, and the next head
            # carries it
            logger.error("durable message %s is not carried now", message_id, exc_info=error)

    async def _deliver(self, row: MessageRow) -> None:
        try:
            await self._deliver_until_done(row)
        except (_PoisonError, RequestError) as error:
            await self._bury(row, str(error))

    async def _deliver_until_done(self, row: MessageRow) -> None:
        attempts, times, last = row.attempts, 0, row.error
        while True:
            await self._wait_for_recipient(row)
            self._check_attempts(row, attempts, last)
            async with self._recipients.turn(row.recipient, row.priority):
                if not await self._recipients.is_there(row.recipient):
                    continue  # it has gone while this one waited; that is no attempt
                error = await self._attempt(row, attempts)
                if error is None:
                    return
                counts = not isinstance(error, OverloadedError)
                attempts, times, last = attempts + counts, times + 1, str(error)
                pause = _pause(times)
                logger.info("durable message %s waits %.1f s: %s", row.id, pause, error)
                await self._note(row, partial(self._store.again, row.id, last, counts=counts))
            self._check_attempts(row, attempts, last)
            await asyncio.sleep(pause)

    async def _wait_for_recipient(self, row: MessageRow) -> None:
        _seconds_left(row)  # or it is too late already
        left = None if row.deadline is None else row.deadline - time.time()
        try:
            async with asyncio.timeout(left):
                await self._recipients.wait_for(row.recipient)
        except TimeoutError:
            raise _PoisonError(_PASSED) from None

    async def _attempt(self, row: MessageRow, attempts: int) -> IroncliwError | None:
        """Give an agent the message; returns why it was not done.

        Raises:
            RequestError, _PoisonError: it will never be.
        """
        await self._note(row, partial(self._store.delivered, row.id))
        try:
            await self._hand_over(row, attempts)
        except RequestError:
            raise
        except IroncliwError as error:
            return error
        await self._note(row, partial(self._store.done, row.id))
        return None

    async def _note(self, row: MessageRow, work: Callable[[], Awaitable[None]]) -> None:
        """Have the store note something of a message, for as long as it takes it to come back."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await work()
                return
            except StoreError as error:
                words = "durable message %s waits %.1f s for the store: %s"
                logger.error(words, row.id, pause, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_STORE_PAUSE)

    def _check_attempts(self, row: MessageRow, attempts: int, last: str | None) -> None:
        if attempts >= self._most_attempts(row.recipient):
            times = f"delivered {attempts} times" if attempts != 1 else "delivered once"
            raise _PoisonError(f"it was {times} without success; the last error: {last}")

    async def _hand_over(self, row: MessageRow, attempts: int) -> None:
        await self._exchange.ask(
            row.recipient,
            row.body["body"],
            capability=row.body["capability"],
            deadline_seconds=_seconds_left(row),
            priority=Priority(row.priority),
            sender=row.sender,
            durable=True,
            attempts=attempts,
        )

    async def _bury(self, row: MessageRow, why: str) -> None:
        logger.error("durable message %s for %s is a dead letter: %s", row.id, row.recipient, why)
        await self._note(row, partial(self._store.dead, row.id, why))
        self._figures.dead_letters += 1


class _PoisonError(Exception):
    """A message has been tried too often."""


def _seconds_left(row: MessageRow) -> float:
    if row.deadline is None:
        return ATTEMPT_SECONDS
    left = row.deadline - time.time()
    if left <= 0:
        raise _PoisonError(_PASSED)
    return min(left, ATTEMPT_SECONDS)


def _pause(times: int) -> float:
    return min(_FIRST_PAUSE * 2.0 ** min(times - 1, 30), _LONGEST_PAUSE)


def _check_body(body: Any) -> None:
    try:
        size = len(json.dumps(body, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(
            f"the body of a durable message must be JSON, and {type(body).__name__} is not: "
            f"{error}; give numbers, texts, lists and dicts, or send it without durable=True",
            param="body",
        ) from error
    if size > LARGEST_BODY:
        raise RequestError(
            f"the body of a durable message is {size:,} bytes of JSON, and may be "
            f"{LARGEST_BODY:,}; keep it in a file or a store and send where it is",
            param="body",
        )
