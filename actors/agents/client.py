"""Agents from outside: starts, finds and asks them, from a script, a job or a notebook."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Self

import ray

from actors.agent import Agent
from actors.agents.circuits import CircuitTeller
from actors.agents.exchange import Exchange
from actors.agents.link import Remote
from actors.agents.messages import DEFAULT_SECONDS, Priority, checked_name, new_id
from actors.agents.options import AgentOptions, capabilities_of
from actors.agents.ray_calls import RayRemote
from actors.agents.remote_directory import PART, RemoteDirectory
from actors.agents.spec import AgentSpec, load_agent_class
from actors.breaker import OpenCircuit
from actors.control_link import ControlLink
from actors.selection import Candidate
from ironcliw.errors import NotRunningError, SettingsError

_CARRIED = ("working_dir", "py_modules", "pip", "uv", "conda")
"""Of the runtime environment of a job: what its agents need to find their classes too."""


class Agents:
    """The agents of the cluster. Use `Agents.connect()`, in a process that is connected to Ray.

    Args:
        link: to the control actor.
        connect: name of a host -> the way to it.
        process: how `ironcliw agents breakers` calls this process.
    """

    def __init__(
        self,
        link: ControlLink,
        connect: Callable[[str], Remote] = RayRemote.named,
        process: str = "client",
    ) -> None:
        self._link = link
        directory = RemoteDirectory(link)
        sender = f"{process}-{os.getpid()}-{new_id()}"
        self._exchange = Exchange(sender, directory, connect)
        self._teller = CircuitTeller(self._exchange.breakers, self._tell_circuits)

    @classmethod
    async def connect(cls) -> Self:
        """Reach the agents of the head that Ray is connected to.

        Raises:
            NotRunningError: this process is not connected to Ray.
        """
        if not ray.is_initialized():
            raise NotRunningError(
                "this process is not connected to Ray: call ray.init() first, in a shell that "
                '`eval "$(ironcliw env)"` has told where the head is'
            )
        # as `ray list jobs` and `ray job list` show it
        return cls(ControlLink(), process=f"job-{ray.get_runtime_context().get_job_id()}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._teller.last_word()
        self.close()

    def close(self) -> None:
        """Give up whatever is on its way."""
        self._teller.close()
        self._exchange.close()

    async def start(
        self,
        agent: type[Agent] | str,
        *,
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> str:
        """Start an agent, which stays until it is stopped; returns its name.

        Args:
            agent: its class, or "module:Class"; importable on the machine where it runs. What a
                job's working directory holds is.
            name: by which others reach it; None: one is made from the class's.
            options: what shall be otherwise than the class says, see `AgentOptions`.
            **arguments: of its `__init__`; what JSON can write.

        Raises:
            SettingsError: the class cannot be imported elsewhere, or an option is out of range.
            ConflictError: the name is taken.
            AgentError: it raised while it was made or started.
            UnavailableError: there is no machine for it.
        """
        found = load_agent_class(agent) if isinstance(agent, str) else agent
        given = AgentOptions.of(found, options)
        chosen = name or f"{found.__name__.lower()}-{new_id()}"
        spec = AgentSpec(
            checked_name(chosen, "an agent"), name_of_class(found), arguments, given, _environment()
        )
        await self._ask("start", spec=spec, capabilities=capabilities_of(found))
        return chosen

    async def stop(self, name: str, *, seconds: float = 10.0) -> None:
        """Stop an agent, after at most so many seconds for the messages that it has.

        Raises:
            NotFoundError: there is none of that name.
        """
        await self._ask("stop", name=name, seconds=seconds)
        self._exchange.memory.forget(name)

    async def restart(self, name: str) -> None:
        """Start an agent anew from its last state, also one that was given up.

        Raises:
            NotFoundError: there is none of that name.
        """
        await self._ask("restart", name=name)

    async def find(self, capability: str, *, strategy: str = "least_loaded") -> str:
        """Name of an agent that offers a capability.

        Args:
            capability: its name.
            strategy: see `actors.selection.STRATEGIES`.

        Raises:
            NotFoundError: nobody offers it.
            UnavailableError: nobody who offers it takes messages now.
        """
        found: Candidate = await self._exchange.find(capability, strategy)
        return found.agent

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
        """See `Agent.ask`."""
        return await self._exchange.ask(
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
    ) -> bool:
        """See `Agent.send`.

        Returns:
            Whether it is new; False: the key was used for the same target before, and that message
            stands for this one.
        """
        return await self._exchange.send(
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
        """See `Agent.publish`."""
        return await self._exchange.publish(topic, body, priority=priority)

    async def describe_all(self) -> list[dict[str, Any]]:
        """All agents, by name."""
        found: list[dict[str, Any]] = await self._ask("agents")
        return found

    async def describe(self, name: str) -> dict[str, Any]:
        """One agent.

        Raises:
            NotFoundError: there is none of that name.
        """
        found: dict[str, Any] = await self._ask("describe", name=name)
        return found

    async def breakers(self) -> list[dict[str, Any]]:
        """Capabilities that failed too often lately, and the processes that do not ask for them."""
        found: list[dict[str, Any]] = await self._ask("breakers")
        return found

    async def dead_letters(
        self, recipient: str | None = None, *, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Durable messages that were given up, the latest first.

        Args:
            recipient: those of an agent or a capability; None: all.
            limit: at most so many.
        """
        found: list[dict[str, Any]] = await self._ask(
            "dead_letters", recipient=recipient, limit=limit
        )
        return found

    async def replay(self, message_id: str) -> dict[str, Any]:
        """Send a dead letter once more.

        Raises:
            NotFoundError: there is none of this id.
        """
        found: dict[str, Any] = await self._ask("replay", message_id=message_id)
        return found

    async def _tell_circuits(self, circuits: list[OpenCircuit]) -> None:
        process = self._exchange.sender
        arguments = {"process": process, "circuits": circuits}
        await self._link.call(PART, "tell_circuits", repeatable=True, **arguments)

    async def _ask(self, method: str, **arguments: Any) -> Any:
        repeatable = method in {"agents", "breakers", "describe", "dead_letters"}
        return await self._link.call(PART, method, repeatable=repeatable, **arguments)


def name_of_class(agent: type[Agent]) -> str:
    """A class as "module:Class".

    Raises:
        SettingsError: nobody else could import it.
    """
    if not (isinstance(agent, type) and issubclass(agent, Agent)):
        raise SettingsError(f"{agent!r} is no class of agents; derive it from Agent")
    if agent.__module__ == "__main__" or "." in agent.__qualname__:
        raise SettingsError(
            f"the class {agent.__qualname__} of {agent.__module__!r} cannot be imported by the "
            "process that runs the agent: put it at the top of a module"
        )
    return f"{agent.__module__}:{agent.__qualname__}"


def _environment() -> dict[str, Any]:
    """What of this job's runtime environment its agents need."""
    own = dict(ray.get_runtime_context().runtime_env)
    return {key: own[key] for key in _CARRIED if key in own}
