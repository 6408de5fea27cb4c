"""Agents in the process of a test: the real mailboxes, registry and supervision, without Ray.

    async with AgentBench() as bench:
        await bench.start(Greeter, name="greeter", word="Hi")
        assert await bench.ask("greet", "Ada") == "Hi, Ada"

Nothing is isolated and nothing is durable here: a class that ends its process ends the test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from actors.agent import Agent
from actors.agents.hosts import LocalHosts
from actors.agents.messages import new_id
from actors.agents.options import AgentOptions, capabilities_of
from actors.agents.records import AgentStore, MemoryStore
from actors.agents.spec import AgentSpec
from actors.agents.system import AgentSystem
from actors.supervisor import RestartPolicy


class AgentBench:
    """A system of agents for a test.

    Args:
        policy: how patient the supervisor is.
        poll_seconds: how often it looks.
        store: keeps agents and durable messages; None: in memory.
        hosts: processes, which are this one; None: none yet.
    """

    def __init__(
        self,
        *,
        policy: RestartPolicy | None = None,
        poll_seconds: float = 0.02,
        store: AgentStore | None = None,
        hosts: LocalHosts | None = None,
        cloud: bool = False,
    ) -> None:
        self.hosts = hosts or LocalHosts()
        self.store = store or MemoryStore()
        self.system = AgentSystem(
            self.store, self.hosts, policy=policy, poll_seconds=poll_seconds, cloud=cloud
        )
        self.hosts.directory = self.system
        self.ask = self.system.ask
        self.send = self.system.send
        self.publish = self.system.publish

    async def __aenter__(self) -> Self:
        await self.system.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        for host in await self.hosts.find():
            await host.kill()

    async def close(self) -> None:
        """End the supervision alone, as the end of the head's process would."""
        await self.system.close()

    async def start(
        self,
        agent: type[Agent],
        *,
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> str:
        """See `Agents.start`; a class inside a function may be started too."""
        found = AgentOptions.of(agent, options)
        chosen = name or f"{agent.__name__.lower()}-{new_id()}"
        class_name = self.hosts.remember(agent)
        spec = AgentSpec(chosen, class_name, arguments, found)
        await self.system.start_agent(spec, capabilities_of(agent))
        return chosen
