"""Whoever waits for the answers of an agent."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from actors.agents.messages import Message, MovedError

logger = logging.getLogger(__name__)


class Askers:
    """Those of one agent, by the ids of their messages.

    Args:
        agent: its name.
    """

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._loop = asyncio.get_running_loop()
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._withdrawn: set[str] = set()
        self._unheard = 0

    def __contains__(self, message_id: object) -> bool:
        """Whether somebody waits for a message's answer."""
        return message_id in self._answers

    def expect(self, message_id: str) -> asyncio.Future[Any]:
        """Somebody waits from now on; the future has the answer."""
        answer = self._answers[message_id] = self._loop.create_future()
        return answer

    def forget(self, message_id: str) -> None:
        """Nobody waits any more."""
        self._answers.pop(message_id, None)
        self._withdrawn.discard(message_id)

    def withdraw(self, message_id: str) -> None:
        """Somebody waits still, and wants the message not to be put into the mailbox."""
        if message_id in self._answers:
            self._withdrawn.add(message_id)

    def has_withdrawn(self, message_id: str) -> bool:
        """Whether a message is not to be put into the mailbox."""
        return message_id in self._withdrawn

    def tell(self, message: Message, error: BaseException | None, value: Any = None) -> None:
        """What became of a message; a failure of which nobody wants to know is logged.

        Args:
            message: that is dealt with.
            error: in which it ended; None: in none.
            value: the answer.
        """
        answer = self._answers.pop(message.id, None)
        self._withdrawn.discard(message.id)
        if answer is None:
            if error is not None and not isinstance(error, MovedError):
                self._unheard += 1
                what = message.capability or "on_message"
                logger.warning("agent %s: a message for %s failed: %s", self._agent, what, error)
        elif not answer.done():
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)

    def take_unheard(self) -> int:
        """Failures of which nobody wanted to know, since this was asked last."""
        found, self._unheard = self._unheard, 0
        return found
