"""What an agent's class says of itself: its capabilities and how it wants to be run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from actors.agents.mailbox import Overflow
from actors.agents.messages import checked_name
from ironcliw.errors import SettingsError

_Method = TypeVar("_Method", bound=Callable[..., Any])
_MARK = "_agent_capability"
PLACES = ("any", "local", "private", "spot")


@dataclass(frozen=True, slots=True)
class Capability:
    """Something that an agent can do.

    Attributes:
        name: by which it is found.
        method: the attribute of the agent that does it.
        concurrency: how many of its messages are worked on at once.
        idempotent: doing it twice is as good as once, so it is done again where its process ended.
        timeout_seconds: the longest it may take once begun; None: up to the message's deadline.
        plain: it is no coroutine, so it runs in a thread.
    """

    name: str
    method: str
    concurrency: int = 1
    idempotent: bool = False
    timeout_seconds: float | None = None
    plain: bool = False

    @property
    def lane(self) -> str:
        """Messages of a lane are worked on in turn.

        Plain methods that ask for no concurrency share one: two threads would otherwise be in the
        same agent at once.
        """
        return "" if self.plain and self.concurrency == 1 else self.name


def capability(
    name: str,
    *,
    concurrency: int = 1,
    idempotent: bool = False,
    timeout_seconds: float | None = None,
) -> Callable[[_Method], _Method]:
    """Declare that a method of an agent can be asked for by this name.

    The method is given the message's body. A coroutine shares the process's event loop with other
    agents and must not block it; a plain method runs in a thread.

    Args:
        name: of the capability; several agents may offer the same.
        concurrency: how many of its messages are worked on at once.
        idempotent: doing it twice is as good as once.
        timeout_seconds: the longest it may take once begun. A coroutine is broken off then; a plain
            method cannot be, and its agent is started again if it goes on much longer.

    Raises:
        SettingsError: a figure is out of range.
    """
    checked_name(name, "a capability")
    if concurrency < 1:
        raise SettingsError(f"capability {name!r}: concurrency is {concurrency}; give 1 or more")
    if timeout_seconds is not None and not timeout_seconds > 0:
        raise SettingsError(
            f"capability {name!r}: timeout_seconds is {timeout_seconds}; give more than 0, or None"
        )

    def mark(method: _Method) -> _Method:
        plain = not inspect.iscoroutinefunction(method)
        found = Capability(
            name, method.__name__, concurrency, idempotent, timeout_seconds, plain=plain
        )
        setattr(method, _MARK, found)
        return method

    return mark


def capabilities_of(agent: type) -> dict[str, Capability]:
    """The capabilities of a class by their names, inherited ones included.

    Raises:
        SettingsError: two methods claim one name.
    """
    found: dict[str, Capability] = {}
    for attribute in dir(agent):
        mark = getattr(inspect.getattr_static(agent, attribute), _MARK, None)
        if mark is None:
            continue
        if mark.name in found:
            raise SettingsError(
                f"{agent.__name__}: the methods {found[mark.name].method} and {attribute} both "
                f"offer the capability {mark.name!r}; give one of them another name"
            )
        found[mark.name] = mark
    return found


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How an agent is run. Each is an attribute of its class, and may be given at its start.

    Attributes:
        place: "local" and "private" are the head ("private" never leaves it), "spot" a machine
            that may be taken back, "any" wherever there is room, the head first.
        memory_gb: what it needs.
        memory_limit_gb: of an isolated one: more than this is a `MemoryError` to it (on Linux), and
            it starts again. None: no limit but the machine's.
        isolated: a process of its own, else it shares one.
        mailbox: how many messages may wait.
        overflow: "refuse", "drop_oldest" or "wait": what a full mailbox does with one more.
        snapshot_seconds: its state is saved so often; None: when it stops or moves alone.
        max_attempts: a durable message that failed so often is put with the dead letters.
    """

    place: str = "any"
    memory_gb: float = 0.1
    memory_limit_gb: float | None = None
    isolated: bool = False
    mailbox: int = 1000
    overflow: str = "refuse"
    snapshot_seconds: float | None = None
    max_attempts: int = 5

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise SettingsError(f"place {self.place!r} is none of {', '.join(PLACES)}")
        if self.overflow not in set(Overflow):
            raise SettingsError(f"overflow {self.overflow!r} is none of {', '.join(Overflow)}")
        if self.memory_limit_gb is not None and not self.isolated:
            raise SettingsError(
                "memory_limit_gb is for an agent with isolated=True: others share a process, which "
                "has one limit for all"
            )
        positive = ("memory_gb", "memory_limit_gb", "mailbox", "snapshot_seconds", "max_attempts")
        for name in positive:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SettingsError(f"{name} is {value}; give a finite number above 0")

    @classmethod
    def of(cls, agent: type, given: Mapping[str, Any] | None = None) -> AgentOptions:
        """The options of a class.

        Args:
            agent: a subclass of `Agent`.
            given: what shall be otherwise for one agent.

        Raises:
            SettingsError: there is no such option, or its value is out of range.
        """
        names = [field.name for field in fields(cls)]
        if unknown := sorted(set(given or {}) - set(names)):
            raise SettingsError(f"{unknown[0]!r} is no option of agents; give {', '.join(names)}")
        own = {name: getattr(agent, name) for name in names if hasattr(agent, name)}
        return cls(**{**own, **(given or {})})

    def as_json(self) -> dict[str, Any]:
        """For the store."""
        return asdict(self)
