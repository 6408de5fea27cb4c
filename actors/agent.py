"""Agents: objects with a name, a mailbox and capabilities, kept alive on the cluster.

    from actors.agent import Agent, Agents, capability

    class Greeter(Agent):
        def __init__(self, word="Hello"):
            self.word, self.greeted = word, 0

        @capability("greet", concurrency=4, idempotent=True)
        async def greet(self, name):
            self.greeted += 1
            return f"{self.word}, {name}"

        def snapshot(self):
            return self.greeted

        def restore(self, state):
            self.greeted = state

The class stands in a module that the cluster can import; `Agents.connect()` starts it. What an
agent raises goes to whoever asked. An agent that ends with its process, hangs, or says that it is
not healthy is started again by its supervisor, from its last snapshot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from actors.agents.messages import DEFAULT_SECONDS, Message, Priority
from actors.agents.options import Capability, capabilities_of, capability
from ironcliw.errors import RequestError

if TYPE_CHECKING:
    from actors.agents.client import Agents

__all__ = ["Agent", "Agents", "Capability", "Message", "Outside", "Priority", "capability"]

Listener = Callable[[Any], Awaitable[None]]


def __getattr__(name: str) -> Any:
    # the client needs Ray, an agent's module does not
    if name == "Agents":
        from actors.agents.client import Agents

        return Agents
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Outside(Protocol):
    """What an agent is given of the world: a way to the others."""

    @property
    def name(self) -> str: ...

    async def ask(
        self,
        target: str,
        body: Any,
        *,
        capability: str | None,
        deadline_seconds: float,
        priority: Priority | str,
        strategy: str,
        wait_seconds: float,
    ) -> Any: ...

    async def send(
        self,
        target: str,
        body: Any,
        *,
        capability: str | None,
        deadline_seconds: float | None,
        priority: Priority | str,
        durable: bool,
        key: str | None,
    ) -> None: ...

    async def publish(self, topic: str, body: Any, *, priority: Priority | str) -> int: ...

    async def subscribe(self, topic: str, listener: Listener) -> None: ...

    async def unsubscribe(self, topic: str) -> None: ...


class Agent:
    """Base class of agents. `__init__` takes the arguments given at the start; nothing is awaited.

    The class attributes below are `actors.agents.options.AgentOptions`, described there.
    """

    place: ClassVar[str] = "any"
    memory_gb: ClassVar[float] = 0.1
    memory_limit_gb: ClassVar[float | None] = None
    isolated: ClassVar[bool] = False
    mailbox: ClassVar[int] = 1000
    overflow: ClassVar[str] = "refuse"
    snapshot_seconds: ClassVar[float | None] = None
    max_attempts: ClassVar[int] = 5

    capabilities: ClassVar[Mapping[str, Capability]] = {}
    """By their names; found by the methods' decorators."""

    _outside: Outside | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.capabilities = capabilities_of(cls)

    @property
    def name(self) -> str:
        """The name by which others reach this agent."""
        return self._world.name

    async def on_start(self) -> None:
        """Called once before the first message, after `restore`."""

    async def on_stop(self) -> None:
        """Called once after the last message; not where the process is killed."""

    async def on_message(self, message: Message) -> Any:
        """Called with what was sent to the agent's name without a capability.

        Raises:
            RequestError: unless a subclass does better.
        """
        known = ", ".join(sorted(self.capabilities)) or "none"
        raise RequestError(
            f"agent {message.recipient!r} takes messages for its capabilities alone ({known}): "
            "name one, or give the class an `on_message`",
            param="capability",
        )

    def snapshot(self) -> Any:
        """The state that shall outlive the process: bytes, or what JSON can write. None: nothing.

        Called between two steps of the agent; never while a plain method runs in a thread.
        """
        return None

    def restore(self, state: Any) -> None:
        """Go on from what `snapshot` gave, in a new object; called before `on_start`."""

    def healthy(self) -> bool:
        """Whether the agent is of use; one that is not is started again. Called every second."""
        return True

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
    ) -> Any:
        """Have another agent do something, and wait for its answer.

        Args:
            target: an agent's name, or a capability, for which one of its agents is chosen.
            body: what the capability's method is given.
            capability: which one, where the target is a name.
            deadline_seconds: how long the answer is of use.
            priority: how urgent it is.
            strategy: see `actors.selection.STRATEGIES`.
            wait_seconds: for an agent that is not there yet; 0: fail at once. One that is being
                started again is waited for in any case, until the deadline.

        Raises:
            NotFoundError: nobody has the name or the capability.
            DeadlineExceededError: no answer in time.
            OverloadedError: the agent's mailbox is full.
            UnavailableError: its process ended, or the capability has failed too often lately.
            AgentError: its method failed.
        """
        return await self._world.ask(
            target,
            body,
            capability=capability,
            deadline_seconds=deadline_seconds,
            priority=priority,
            strategy=strategy,
            wait_seconds=wait_seconds,
        )

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
    ) -> None:
        """Tell another agent something; returns once it is in its mailbox, or in the store.

        Args:
            target: an agent's name, or a capability.
            body: what its method is given; of a durable message what JSON can write.
            capability: which one, where the target is a name.
            deadline_seconds: after that nobody wants it any more; None: for ever.
            priority: how urgent it is.
            durable: committed before this returns, and given to the agent again until it is done.
            key: of a durable message: a second one of this key for this agent is none.

        Raises:
            NotFoundError, OverloadedError, UnavailableError: as `ask`; nothing was sent.
            DeadlineExceededError: the agent's process did not say whether it took the message.
        """
        await self._world.send(
            target,
            body,
            capability=capability,
            deadline_seconds=deadline_seconds,
            priority=priority,
            durable=durable,
            key=key,
        )

    async def publish(
        self, topic: str, body: Any = None, *, priority: Priority | str = Priority.NORMAL
    ) -> int:
        """Tell all who have subscribed to a topic; returns how many took it."""
        return await self._world.publish(topic, body, priority=priority)

    async def subscribe(self, topic: str, listener: Listener) -> None:
        """Have a method called with the body of whatever is published; others learn within 1 s."""
        await self._world.subscribe(topic, listener)

    async def unsubscribe(self, topic: str) -> None:
        """Have it called no more."""
        await self._world.unsubscribe(topic)

    @property
    def _world(self) -> Outside:
        if self._outside is None:
            raise RequestError(
                f"{type(self).__name__} was not started: outside of the cluster an agent has no "
                "name and reaches nobody; start it with Agents.start, or AgentBench in a test"
            )
        return self._outside
