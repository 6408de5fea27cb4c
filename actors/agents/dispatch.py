"""Which of an agent's methods or listeners a message is for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from actors.agent import Agent, Listener
from actors.agents.messages import Message
from actors.agents.options import Capability
from ironcliw.errors import RequestError

_MESSAGE = Capability("on_message", "on_message")


class Dispatch:
    """Finds it, for one agent.

    Args:
        name: of the agent.
        agent: whose methods they are.
    """

    def __init__(self, name: str, agent: Agent) -> None:
        self._name = name
        self._agent = agent
        self._listeners: dict[str, Listener] = {}

    def listen(self, topic: str, listener: Listener | None) -> None:
        """Have what is published under a topic given to a coroutine; None: no longer."""
        if listener is None:
            self._listeners.pop(topic, None)
        else:
            self._listeners[topic] = listener

    @property
    def topics(self) -> list[str]:
        """Those that the agent listens to."""
        return list(self._listeners)

    def capability(self, message: Message) -> Capability:
        """What a message asks for; `on_message` and a topic are told as capabilities, too.

        Raises:
            RequestError: the agent lacks it.
        """
        if message.capability is None:
            if message.topic is not None:
                return Capability(f"topic {message.topic}", "")
            return _MESSAGE
        found = self._agent.capabilities.get(message.capability)
        if found is None:
            known = ", ".join(sorted(self._agent.capabilities)) or "none"
            raise RequestError(
                f"agent {self._name!r} has no capability {message.capability!r} (it has: {known})",
                param="capability",
            )
        return found

    def method(self, capability: Capability) -> Callable[[Any], Any]:
        """The agent's method for a capability; it is given the body of a message."""
        method: Callable[[Any], Any] = getattr(self._agent, capability.method)
        return method

    def coroutine(self, message: Message, capability: Capability) -> Awaitable[Any]:
        """A message in the hands of a method that is no plain one, or of a listener.

        Args:
            message: it.
            capability: what it asks for.
        """
        if capability is _MESSAGE:
            return self._agent.on_message(message)
        if message.topic is not None and message.capability is None:
            listener = self._listeners.get(message.topic, _nobody)
            return listener(message.body)
        result: Awaitable[Any] = self.method(capability)(message.body)
        return result


async def _nobody(_body: Any) -> None:
    """For what was published before the agent stopped listening."""
