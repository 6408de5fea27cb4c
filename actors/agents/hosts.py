"""What an agent system needs of the processes that run agents, and such processes for tests."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.agent import Agent
from actors.agents.directory import Directory
from actors.agents.host import HandedOver, Host
from actors.agents.link import HostGoneError, HostLostError, Outcome, Remote
from actors.agents.messages import Parcel
from actors.agents.options import AgentOptions
from actors.agents.reports import HostReport
from actors.agents.snapshots import Snapshots
from actors.agents.spec import AgentSpec, load_agent_class
from actors.breaker import OpenCircuit

HOME_PLACES = frozenset({"any", "local", "private"})
"""Places that mean the head; "any" does as long as it has room."""


class HostHandle(Remote, Protocol):
    """A host, as its supervisor sees it. All methods raise `HostLostError`."""

    @property
    def name(self) -> str: ...

    @property
    def node(self) -> str: ...

    @property
    def pid(self) -> int: ...

    async def start_agent(self, spec: AgentSpec, state: bytes | None) -> None: ...

    async def withdraw(self, message_id: str, seconds: float) -> bool: ...

    async def stop_agent(self, name: str, seconds: float) -> bytes | None: ...

    async def drop_agent(self, name: str, reason: str) -> None: ...

    async def hand_over(self, name: str, seconds: float) -> HandedOver: ...

    async def hurry(self, seconds: float) -> None: ...

    async def snapshots(self, names: list[str], hold_seconds: float = 0.0) -> Snapshots: ...

    async def replay(self, parcels: list[Parcel]) -> None: ...

    async def report(self) -> HostReport: ...

    async def circuits(self) -> list[OpenCircuit]: ...

    async def released(self) -> None:
        """Its agents have stopped: returns when their last answers were fetched, or after 2 s.

        The machine need not wait for it any more.
        """

    async def kill(self) -> None:
        """End the process, whatever it does."""


@dataclass(frozen=True, slots=True)
class HostPlan:
    """A process to start.

    Attributes:
        name: unlike any other's.
        place: "local" or "spot".
        options: of the one agent that it is for; None: for several.
        environment: Ray's runtime environment.
    """

    name: str
    place: str
    options: AgentOptions | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)


class Hosts(Protocol):
    """Starts processes and finds them again."""

    async def launch(self, plan: HostPlan) -> HostHandle:
        """Start a process.

        Raises:
            UnavailableError: there is no machine for it, or it did not start.
        """

    async def find(self) -> list[HostHandle]:
        """Those that an earlier system has started."""

    def connect(self, host: str) -> Remote:
        """The way to a host of this name, for messages."""

    def keep_code(self, environment: Mapping[str, Any]) -> None:
        """Have an environment's code ready for as long as this process lives."""


class LocalHosts:
    """Hosts in this very process: for tests of agents, where nothing is isolated."""

    def __init__(self) -> None:
        self.directory: Directory | None = None
        """To be set before the first launch."""
        self._hosts: dict[str, LocalHandle] = {}
        self._classes: dict[str, type[Agent]] = {}

    def remember(self, agent: type[Agent]) -> str:
        """A name for a class that no other process needs to import."""
        name = f"{agent.__module__}:{agent.__qualname__}"
        self._classes[name] = agent
        return name

    def _load(self, name: str) -> type[Agent]:
        return self._classes[name] if name in self._classes else load_agent_class(name)

    async def launch(self, plan: HostPlan) -> HostHandle:
        """A `Host` on this event loop."""
        assert self.directory is not None
        host = Host(plan.name, self.directory, self.connect, self._load)
        handle = self._hosts[plan.name] = LocalHandle(host, plan.place)
        return handle

    async def find(self) -> list[HostHandle]:
        """Those that were launched and not killed."""
        return [host for host in self._hosts.values() if not host.dead]

    def connect(self, host: str) -> Remote:
        """The handle itself, which loses what is sent once it is killed."""
        return self._hosts[host] if host in self._hosts else _Gone(host)

    def keep_code(self, environment: Mapping[str, Any]) -> None:
        """Nothing: it is this process's."""

    async def kill(self, name: str) -> None:
        """End a host as if its process were killed."""
        await self._hosts.pop(name).kill()


class _Gone:
    def __init__(self, name: str) -> None:
        self._name = name

    async def deliver(self, sender: str, parcels: list[Parcel]) -> list[Outcome | None]:
        raise HostGoneError(f"host {self._name!r} is gone")

    async def collect(self, sender: str) -> list[tuple[str, Outcome]]:
        raise HostGoneError(f"host {self._name!r} is gone")


class LocalHandle:
    """A host of this process.

    Args:
        host: it.
        node: what it says its machine is.
    """

    def __init__(self, host: Host, node: str) -> None:
        self.host = host
        self.name = host.name
        self.node = node
        self.pid = os.getpid()
        self.dead = False
        self.notice_seconds: float | None = None

    def _alive(self) -> Host:
        if self.dead:
            raise HostGoneError(f"host {self.name!r} is gone")
        return self.host

    async def deliver(self, sender: str, parcels: list[Parcel]) -> list[Outcome | None]:
        outcomes = await self._alive().incoming.deliver(sender, parcels)
        self._check_it_lived()
        return outcomes

    async def collect(self, sender: str) -> list[tuple[str, Outcome]]:
        found = await self._alive().incoming.collect(sender)
        self._check_it_lived()
        return found

    def _check_it_lived(self) -> None:
        if self.dead:  # what died meanwhile has not answered
            raise HostLostError(f"host {self.name!r} died")

    async def withdraw(self, message_id: str, seconds: float) -> bool:
        return await self._alive().withdraw(message_id, seconds)

    async def start_agent(self, spec: AgentSpec, state: bytes | None) -> None:
        try:
            await self._alive().start_agent(spec, state)
        finally:
            self._check_it_lived()

    async def stop_agent(self, name: str, seconds: float) -> bytes | None:
        return await self._alive().stop_agent(name, seconds)

    async def drop_agent(self, name: str, reason: str) -> None:
        await self._alive().drop_agent(name, reason)

    async def hand_over(self, name: str, seconds: float) -> HandedOver:
        handed = await self._alive().hand_over(name, seconds)
        self._check_it_lived()
        return handed

    async def hurry(self, seconds: float) -> None:
        self._alive().hurry(seconds)

    async def snapshots(self, names: list[str], hold_seconds: float = 0.0) -> Snapshots:
        return await self._alive().states.take(names, hold_seconds)

    async def replay(self, parcels: list[Parcel]) -> None:
        await self._alive().incoming.replay(parcels)

    async def report(self) -> HostReport:
        host = self._alive()
        return HostReport(
            self.name,
            self.node,
            os.getpid(),
            0,
            agents=host.report(),
            notice_seconds=self.notice_seconds,
            open_circuits=tuple(host.exchange.breakers.open()),
            lost_threads=host.threads.lost,
            thread_wait_seconds=host.threads.wait_seconds,
        )

    async def circuits(self) -> list[OpenCircuit]:
        return self._alive().circuits()

    async def released(self) -> None:
        await self._alive().incoming.answers_fetched()

    async def kill(self) -> None:
        if not self.dead:
            self.dead = True
            await self.host.kill()
