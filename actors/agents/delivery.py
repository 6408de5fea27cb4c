"""Durable messages on their way from the store to the agents.

A message is committed before its sender is told so; it is counted as delivered, in the store,
before an agent sees it; and it is done when the agent's method has returned. So whatever ends in
between, it is given again, and one that ends its agent's process each time is found out by its
count of deliveries.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from actors.agents.directory import DurableSend
from actors.agents.exchange import Exchange
from actors.agents.figures import Figures
from actors.agents.messages import Priority, checked_name
from actors.agents.records import AgentStore
from actors.message_records import MessageRow
from ironcliw.errors import (
    IroncliwError,
    OverloadedError,
    RequestError,
)

logger = logging.getLogger(__name__)

ATTEMPT_SECONDS = 600.0
"""How long an agent may be at a durable message that has no deadline."""
LARGEST_BODY = 1_000_000
"""Bytes of JSON."""
_TOGETHER = 64
"""Messages to one recipient that are on their way at once."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0


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
        self._figures = figures
        self._slots: dict[str, asyncio.Semaphore] = {}
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

    def _carry(self, row: MessageRow) -> None:
        if row.id not in self._tasks:
            task = asyncio.create_task(self._deliver(row), name=f"durable:{row.id}")
            self._tasks[row.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(row.id, None))

    async def _deliver(self, row: MessageRow) -> None:
        slots = self._slots.setdefault(row.recipient, asyncio.Semaphore(_TOGETHER))
        attempts, times = row.attempts, 0
        last = row.error
        while True:
            async with slots:
                try:
                    counts = False  # what goes wrong before the agent has it is no attempt
                    await self._exchange.memory.look_up(row.recipient)
                    seconds = _seconds_left(row)
                    self._check_attempts(row, attempts, last)
                    await self._store.delivered(row.id)
                    counts = True
                    await self._hand_over(row, seconds, attempts)
                    await self._store.done(row.id)
                    return
                except (_PoisonError, RequestError) as error:
                    await self._bury(row, str(error))
                    return
                except IroncliwError as error:
                    counts = counts and not isinstance(error, OverloadedError)
                    attempts, times, last = attempts + counts, times + 1, str(error)
                    pause = _pause(times)
                    logger.info("durable message %s waits %.1f s: %s", row.id, pause, error)
                    await self._store.again(row.id, last, counts=counts)
                    try:
                        self._check_attempts(row, attempts, last)
                    except _PoisonError as poison:
                        await self._bury(row, str(poison))
                        return
            await asyncio.sleep(pause)

    def _check_attempts(self, row: MessageRow, attempts: int, last: str | None) -> None:
        if attempts >= self._most_attempts(row.recipient):
            times = f"delivered {attempts} times" if attempts != 1 else "delivered once"
            raise _PoisonError(f"it was {times} without success; the last error: {last}")

    async def _hand_over(self, row: MessageRow, seconds: float, attempts: int) -> None:
        await self._exchange.ask(
            row.recipient,
            row.body["body"],
            capability=row.body["capability"],
            deadline_seconds=seconds,
            priority=Priority(row.priority),
            sender=row.sender,
            durable=True,
            attempts=attempts,
        )

    async def _bury(self, row: MessageRow, why: str) -> None:
        logger.error("durable message %s for %s is a dead letter: %s", row.id, row.recipient, why)
        await self._store.dead(row.id, why)
        self._figures.dead_letters += 1


class _PoisonError(Exception):
    """A message has been tried too often."""


def _seconds_left(row: MessageRow) -> float:
    if row.deadline is None:
        return ATTEMPT_SECONDS
    left = row.deadline - time.time()
    if left <= 0:
        raise _PoisonError("its deadline has passed")
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
