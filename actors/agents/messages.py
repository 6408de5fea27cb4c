"""Messages between agents, and what they look like on the way between processes.

A deadline is a moment of the process's own monotonic clock. On the way it is the seconds that are
left, because two machines share no clock; the time of the way itself is not counted.
"""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from actors.agents.packing import Packed, pack, unpack
from ironcliw.errors import RequestError, UnavailableError

DEFAULT_SECONDS = 30.0
"""How long a message may take where its sender says nothing."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")


class MovedError(UnavailableError):
    """The agent is not (or no longer) here: look it up again.

    It has not begun with the message, or may begin anew with it, being idempotent.
    """

    default_code = "agent_moved"


def withdrawn() -> RequestError:
    """What is told of a message that its sender took back: no fault of the agent's."""
    return RequestError("the message was withdrawn by its sender", code="message_withdrawn")


class Priority(IntEnum):
    """How urgent a message is; the lower number goes first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


PRIORITIES = tuple(priority.name.lower() for priority in Priority)


def priority_of(given: Priority | str | int) -> Priority:
    """The priority that a caller means.

    Raises:
        RequestError: there is none of that name or number.
    """
    try:
        return Priority[given.upper()] if isinstance(given, str) else Priority(given)
    except (KeyError, ValueError):
        raise RequestError(
            f"{given!r} is no priority; give one of {', '.join(PRIORITIES)}", param="priority"
        ) from None


def checked_name(name: str, what: str) -> str:
    """A name of an agent, a capability or a topic, as it was given.

    Args:
        name: the name.
        what: how the message calls it, such as "agent".

    Raises:
        RequestError: the name breaks the rule that the message states.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} cannot name {what}: use up to 128 letters, digits and any of '_.:/-', "
            "beginning with a letter or digit"
        )
    return name


_process = os.urandom(6).hex()
_numbers = itertools.count()
# a forked process would otherwise write the same ids as its parent
os.register_at_fork(after_in_child=lambda: globals().update(_process=os.urandom(6).hex()))


def new_id() -> str:
    """An id that no other message has, in any process."""
    return f"{_process}-{next(_numbers)}"


@dataclass(slots=True, eq=False)
class Message:
    """What one agent tells another.

    Attributes:
        id: unlike any other's; a reply is joined to its request by it.
        recipient: name of an agent.
        body: any value. Agents of one process are given the very object: treat it as constant.
        capability: the method that is meant; None: the agent's `on_message`.
        sender: name of the agent that sent it; None: a client.
        topic: set where it was published.
        priority: a `Priority`.
        deadline: moment of this process's monotonic clock after which nobody wants it; None: never.
        key: idempotency key; of a durable message, its recipient sees it once in the good case and
            again after a crash.
        attempts: how often it was given to an agent before.
        durable: it stands in the store until it is dealt with.
    """

    id: str
    recipient: str
    body: Any = None
    capability: str | None = None
    sender: str | None = None
    topic: str | None = None
    priority: int = Priority.NORMAL
    deadline: float | None = None
    key: str | None = None
    attempts: int = 0
    durable: bool = False

    def expired(self, now: float) -> bool:
        """Whether nobody wants it any more."""
        return self.deadline is not None and self.deadline <= now


@dataclass(slots=True, eq=False)
class Parcel:
    """A message between two processes: its body packed, its deadline in seconds that are left.

    Attributes:
        fields: of the message, but for body and deadline, in the order of its attributes.
        body: packed.
        seconds_left: until the deadline; None: there is none.
        wants_reply: the sender waits for the answer, else for the acceptance alone.
    """

    fields: tuple[Any, ...]
    body: Any
    seconds_left: float | None
    wants_reply: bool

    @property
    def capability(self) -> str | None:
        """Of the message."""
        found: str | None = self.fields[2]
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return Parcel, (self.fields, self.body, self.seconds_left, self.wants_reply)


def to_parcel(message: Message, now: float, *, wants_reply: bool) -> Parcel:
    """A message as it travels.

    Args:
        message: stays as it is.
        now: of the monotonic clock.
        wants_reply: see `Parcel`.

    Raises:
        RequestError: the body cannot be sent to another process.
    """
    left = None if message.deadline is None else max(0.0, message.deadline - now)
    fields = (
        message.id,
        message.recipient,
        message.capability,
        message.sender,
        message.topic,
        message.priority,
        message.key,
        message.attempts,
        message.durable,
    )
    return Parcel(fields, pack(message.body, "the body of a message"), left, wants_reply)


def from_parcel(parcel: Parcel, now: float) -> Message:
    """The message that came; `now` is of this process's monotonic clock."""
    id_, recipient, capability, sender, topic, priority, key, attempts, durable = parcel.fields
    deadline = None if parcel.seconds_left is None else now + parcel.seconds_left
    body = unpack(parcel.body) if type(parcel.body) is Packed else parcel.body
    return Message(
        id_,
        recipient,
        body,
        capability,
        sender,
        topic,
        priority,
        deadline,
        key,
        attempts,
        durable,
    )
