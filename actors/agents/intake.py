"""The way of messages into an agent's mailbox, and out of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.agents.askers import Askers
from actors.agents.dispatch import Dispatch
from actors.agents.mailbox import Mailbox, Overflow
from actors.agents.messages import Message, MovedError, withdrawn
from actors.agents.options import AgentOptions
from actors.agents.room import Room
from actors.agents.work import too_late
from ironcliw.errors import IroncliwError, OverloadedError


class Intake:
    """Takes the messages for one agent, until it refuses them.

    Args:
        name: of the agent.
        options: say how much its mailbox holds, and what becomes of one more.
        dispatch: knows the lanes of messages.
        askers: are told of those that the agent will never begin with.

    Attributes:
        mailbox: the messages that it has not begun with.
        refusal: what senders are told; None: they are welcome.
    """

    def __init__(
        self, name: str, options: AgentOptions, dispatch: Dispatch, askers: Askers
    ) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._dispatch = dispatch
        self._askers = askers
        self.mailbox = Mailbox(options.mailbox, options.overflow)
        self.refusal: IroncliwError | None = None
        self._capacity = options.mailbox
        self._room = Room()
        self._full = self._expired = 0

    def put(self, message: Message) -> bool:
        """Put a message into the mailbox. False: it is full, and whoever sends may wait.

        Raises:
            OverloadedError: the mailbox is full.
            RequestError: the agent lacks the capability.
            IroncliwError: the refusal.
        """
        if self.refusal is not None:
            raise self.refusal
        if self._room:  # those who wait come first
            return False
        admission = self.mailbox.put(message, self._dispatch.capability(message).lane)
        if admission.displaced is not None:
            self._askers.tell(
                admission.displaced, self._overloaded("its place was taken by a newer message")
            )
        elif not admission.accepted:
            if self.mailbox.overflow is Overflow.WAIT:
                return False
            raise self._overloaded(f"{len(self.mailbox)} messages wait already")
        return True

    async def put_when_there_is_room(self, message: Message, longest: float | None) -> None:
        """Put a message into the mailbox as soon as there is room for it.

        Args:
            message: whose deadline is waited for at most.
            longest: seconds to wait, if that is less; None: up to the deadline.

        Raises:
            OverloadedError: there was no room in time.
            RequestError: the sender took it back, or the agent lacks the capability.
            IroncliwError: the refusal.
        """
        while True:
            left = None if message.deadline is None else message.deadline - self._loop.time()
            limits = [limit for limit in (left, longest) if limit is not None]
            try:
                await self._room.turn(min(limits, default=None))
            except TimeoutError:
                raise self._overloaded("there was no room before the deadline") from None
            if self.refusal is not None:
                raise self.refusal
            if self.mailbox.full:
                continue
            if self._askers.has_withdrawn(message.id):
                self._room.let_in()  # the next one, in its stead
                raise withdrawn()
            self.mailbox.put(message, self._dispatch.capability(message).lane)
            return

    def _overloaded(self, why: str) -> OverloadedError:
        self._full += 1
        return OverloadedError(
            f"the mailbox of agent {self._name!r} is full: {why}; send less, raise its `mailbox` "
            f"({self._capacity}) or start another such agent",
            code="mailbox_full",
        )

    def take(self, is_free: Callable[[str], bool] | None) -> Message | None:
        """The next message to begin with; whoever asked for one that came too late is told.

        Args:
            is_free: see `Mailbox.take`.
        """
        message = self.mailbox.take(self._loop.time(), is_free)
        for late in self.mailbox.expired:
            self._askers.tell(late, too_late(self._name, "it waited in the mailbox"))
        self._expired += len(self.mailbox.expired)
        self.mailbox.expired.clear()
        return message

    def let_in(self) -> None:
        """Have the first one that waits for room put its message, if there is some."""
        if not self.mailbox.full:
            self._room.let_in()  # it puts its message first, and then wakes the next

    def refuse(self, error: IroncliwError) -> None:
        """Take nothing more; those who wait for room are told, too."""
        self.refusal = error
        self._room.refuse(error)

    def empty(self, moved: MovedError) -> list[Message]:
        """Take out all that waits; whoever asked is told `moved`. The others are returned."""
        found = self.mailbox.drain()
        others = [message for message in found if message.id not in self._askers]
        for message in found:
            self._askers.tell(message, moved)
        return others

    def take_counts(self) -> tuple[int, int]:
        """Messages that found no place, and that came too late, since this was asked last."""
        found = self._full, self._expired
        self._full = self._expired = 0
        return found
