"""All agents of a cluster: registry, supervision, durable messages, hand-over. Knows no Ray.

It lives in one process, the `control` actor; hosts and clients reach it through the methods that
`actors.agents.control` forwards. Nothing that an agent sends another goes through here, but for
durable messages and for questions of who is where.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from actors.agents.circuits import ToldCircuits
from actors.agents.delivery import Deliveries
from actors.agents.directory import DurableSend, Listing
from actors.agents.exchange import Exchange
from actors.agents.figures import Figures, Standing
from actors.agents.hosts import HostHandle, Hosts
from actors.agents.link import HostLostError
from actors.agents.lookups import Lookups
from actors.agents.messages import DEFAULT_SECONDS, Priority, checked_name, new_id
from actors.agents.options import Capability
from actors.agents.records import AgentStore
from actors.agents.rows import from_row
from actors.agents.running import Place, Running
from actors.agents.spec import AgentSpec
from actors.agents.starting import Starting
from actors.agents.watching import Watching
from actors.breaker import OpenCircuit
from actors.handover import hand_over_agents, hand_over_host, hurry_host
from actors.message_records import MessageRow
from actors.registry import AgentStatus, Entry, Registry
from actors.selection import Candidate
from actors.supervisor import RestartPolicy, Supervisor
from ironcliw.errors import (
    IroncliwError,
    RequestError,
    StoreError,
    UnavailableError,
)

logger = logging.getLogger(__name__)

MOST_ATTEMPTS = 5
"""Deliveries of a durable message to a capability that nobody offers now."""
_ANSWER_SECONDS = 2.0  # for the way there and back
_MOVE_SECONDS = 30.0
"""For the coroutines of agents that move because their plain methods get no thread."""
_HALT_SECONDS = 10.0
"""For `on_stop`, the store and the last answers, after what the agent was at."""


class AgentSystem:
    """Starts agents, knows where they are, keeps them alive, carries their durable messages.

    Args:
        store: keeps what must outlive this process.
        hosts: starts the processes that run agents.
        policy: how patient the supervisor is.
        poll_seconds: how often hosts are asked how they fare.
        home_memory_gb: see `Running`.
        cloud: there can be machines in the cloud.
        clock: Unix time.
    """

    def __init__(
        self,
        store: AgentStore,
        hosts: Hosts,
        *,
        policy: RestartPolicy | None = None,
        poll_seconds: float = 1.0,
        home_memory_gb: float = 4.0,
        cloud: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.registry = Registry()
        self.exchange = Exchange(f"control-{new_id()}", self, hosts.connect)
        self._store = store
        self._hosts = hosts
        self._loaded = False
        self._found = asyncio.Event()
        self._clock = clock
        self._lookups = Lookups(self.registry)
        self._told_circuits = ToldCircuits()
        self.figures = Figures()
        self._running = Running(
            self.registry, hosts, store, home_memory_gb=home_memory_gb, cloud=cloud
        )
        self._supervisor = Supervisor(policy or RestartPolicy())
        self._watching = Watching(
            self.registry,
            self._running,
            self._supervisor,
            self.host_leaving,
            self._move_away,
            poll_seconds,
            self.figures,
        )
        self._starting = Starting(
            self.registry, hosts, store, self._running, self._watching, self._clock
        )
        self._deliveries = Deliveries(store, self.exchange, self._most_attempts, self.figures)

    async def load(self) -> None:
        """Know the agents of an earlier system; whoever asks them waits until `start`."""
        self._loaded = True
        for row in await self._store.agents():
            try:
                self.registry.add(from_row(row))
                self._hosts.keep_code(self.registry.get(row.name).spec.environment)
            except IroncliwError as error:
                # boundary: a row that an older release wrote must not keep the others away
                logger.error("agent %s is not taken up: %s", row.name, error)

    async def start(self) -> None:
        """Take up the agents of an earlier system: those that run, and those that should."""
        if not self._loaded:
            await self.load()
        await self._running.find_again()
        self._found.set()
        for entry in list(self.registry):
            if entry.status is AgentStatus.RESTARTING:
                self._watching.restart(entry.name, entry.reason or "it is taken up", "resumed")
        self._watching.start()
        await self._deliveries.start()

    async def rest(self, seconds: float) -> None:
        """Stop all agents and keep their states; the next system starts them again.

        Args:
            seconds: for the messages that they have.
        """
        await self._watching.close()
        running = [entry for entry in self.registry if entry.host is not None]
        halts = [self._rest(entry, seconds) for entry in running]
        results = await asyncio.gather(*halts, return_exceptions=True)
        for entry, result in zip(running, results, strict=True):
            if isinstance(result, BaseException):
                # boundary: what fails for one agent must not keep the others from their rest
                why = str(result) or "its process does not answer"
                logger.error("agent %s starts again from an older state: %s", entry.name, why)
        await self.close()

    async def _rest(self, entry: Entry, seconds: float) -> None:
        # nobody watches its host any more: one that blocks must not keep the head from its end
        async with asyncio.timeout(seconds + _HALT_SECONDS):
            await self._halt(entry, seconds)

    async def close(self) -> None:
        """End the supervision; the agents go on without it."""
        await self._watching.close()
        await self._deliveries.close()
        self.exchange.close()

    async def start_agent(
        self, spec: AgentSpec, capabilities: Mapping[str, Capability]
    ) -> dict[str, Any]:
        """Start an agent; returns what `describe` does.

        Args:
            spec: what to make.
            capabilities: of its class.

        Raises:
            ConflictError: the name is taken.
            AgentError: the agent raised while it was made or started.
            UnavailableError: there is no machine for it.
        """
        entry = await self._starting.start(spec, capabilities)
        return entry.as_json()

    async def restart_agent(self, name: str) -> dict[str, Any]:
        """Start an agent that was given up, or that runs, anew from its last state.

        Raises:
            NotFoundError: there is none of that name.
        """
        entry = self.registry.get(name)
        self._watching.forget(name)
        await self._halt(entry, DEFAULT_SECONDS)
        self._watching.restart(name, "somebody asked for it", "asked")
        return entry.as_json()

    async def stop_agent(self, name: str, seconds: float = 10.0) -> None:
        """Stop an agent and forget it, with its state; its durable messages wait for another.

        Args:
            name: of the agent.
            seconds: for the messages that it has.

        Raises:
            NotFoundError: there is none of that name.
        """
        entry = self.registry.get(name)
        self._watching.forget(name)
        if entry.status is AgentStatus.STARTING:
            self.registry.mark(name, AgentStatus.RESTARTING, "it is being stopped")
            await self._running.break_off(name)
        else:
            await self._halt(entry, seconds)
        try:
            await self._store.remove(name)
        except StoreError as error:
            if self.registry.has(entry):
                why = f"it has stopped, and the store does not forget it: {error}; stop it again"
                self.registry.mark(name, AgentStatus.FAILED, why)
            raise
        if self.registry.has(entry):
            self._watching.forget(name)  # its host may have been lost meanwhile
            self._running.last_words.forget(name)
            self.registry.remove(name)

    async def _halt(self, entry: Entry, seconds: float) -> None:
        """Stop an agent where it runs, and keep its state."""
        place = self._running.places.get(entry.host or "")
        if place is None:
            return
        host, name = place.handle, entry.name
        self.registry.mark(name, AgentStatus.RESTARTING, "it is being stopped")
        try:
            with place.moving(name):
                state = await host.stop_agent(name, seconds)
        except HostLostError:
            state = None  # it has stopped
        await self._running.last_words.keep(name, state)
        if place.kind is None:
            await self._running.release(host.name)

    async def host_leaving(self, host: str, seconds: float) -> None:
        """Move the agents of a host whose machine ends in `seconds`.

        May be told again: an end that is nearer than was known hurries those that still move.
        """
        place = self._running.places.get(host)
        if place is None or not place.ends_sooner(seconds):
            return
        moves = place.ends_at < math.inf
        place.leaving, place.ends_at = True, time.monotonic() + seconds
        if moves:
            await hurry_host(place, seconds)
            return
        await hand_over_host(place, seconds, self.registry, self._running, self._watching)
        self.figures.forget(host)

    async def _move_away(self, place: Place, entries: list[Entry]) -> None:
        """Move agents that get no thread where they are."""
        why = "all threads of its process are busy"
        await hand_over_agents(
            place, entries, why, _MOVE_SECONDS, self.registry, self._running, self._watching
        )

    async def node_leaving(self, node: str, deadline: float) -> None:
        """Have the agents of a machine move, which ends soon; returns at once.

        May be told again: of agents that were on their way there, too.

        Args:
            node: Ray's id of it.
            deadline: Unix time of its end.
        """
        seconds = max(0.0, deadline - self._clock())
        for place in self._running.places.values():
            if place.handle.node == node and place.ends_sooner(seconds):
                place.leaving = True
                self._watching.spawn(self.host_leaving(place.handle.name, seconds))

    async def look_up(
        self, target: str, wait_seconds: float = 0.0, *, unknown_seconds: float = 0.0
    ) -> Listing:
        """See `Directory.look_up`. One that was given up is not waited for."""
        return await self._lookups.look_up(target, wait_seconds, unknown_seconds)

    async def subscribers(self, topic: str) -> tuple[Candidate, ...]:
        """See `Directory.subscribers`."""
        return self.registry.subscribers(topic)

    async def subscribe(self, topic: str, agent: str, *, on: bool) -> None:
        """See `Directory.subscribe`."""
        self.registry.subscribe(checked_name(topic, "a topic"), agent, on=on)

    async def send_durable(self, message: DurableSend) -> str:
        """See `Directory.send_durable`."""
        return await self._deliveries.send(message)

    async def ask(self, target: str, body: Any = None, **options: Any) -> Any:
        """See `Agent.ask`."""
        return await self.exchange.ask(target, body, **options)

    async def withdraw(
        self, message_id: str, hosts: Collection[str] | None, seconds: float
    ) -> bool:
        """Have nothing more done for a message.

        Args:
            message_id: as it was given to `ask`.
            hosts: those that may have it, as `ask` has told; no other one is asked. None: an
                earlier system was asked; all are, once those of that one are found.
            seconds: how long work that was begun may take to end.

        Returns:
            Whether each of them says so; a host that has ended does nothing any more.
        """
        if hosts is None:
            await self._found.wait()
            hosts = list(self._running.places)
        places = [place for name in hosts if (place := self._running.places.get(name)) is not None]
        asked = [_withdrawn(place.handle, message_id, seconds) for place in places]
        return all(await asyncio.gather(*asked))

    async def send(self, target: str, body: Any = None, **options: Any) -> None:
        """See `Agent.send`."""
        await self.exchange.send(target, body, **options)

    async def publish(
        self, topic: str, body: Any = None, *, priority: Priority | str = Priority.NORMAL
    ) -> int:
        """See `Agent.publish`."""
        return await self.exchange.publish(topic, body, priority=priority)

    def tell_circuits(self, process: str, circuits: Sequence[OpenCircuit]) -> None:
        """A process that is no host, such as a job, tells of all its open circuits."""
        self._told_circuits.tell(process, circuits, time.monotonic())

    async def breakers(self) -> list[dict[str, Any]]:
        """Capabilities that some process does not ask for a while, by name."""
        own = self.exchange.breakers.open_now(asyncio.get_running_loop().time())
        found = [("control", one) for one in own]
        found += self._told_circuits.open_now(time.monotonic())
        for host, circuits in (await self._watching.circuits()).items():
            found += [(host, one) for one in circuits]
        rows = [{"process": process, **asdict(one)} for process, one in found]
        return sorted(rows, key=lambda row: (row["capability"], row["process"]))

    def agents(self) -> list[dict[str, Any]]:
        """All agents, by name."""
        return [entry.as_json() for entry in sorted(self.registry, key=lambda e: e.name)]

    def describe(self, name: str) -> dict[str, Any]:
        """One agent.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self.registry.get(name).as_json()

    async def dead_letters(self, recipient: str | None, limit: int) -> list[MessageRow]:
        """Durable messages that were given up, the latest first."""
        if limit < 1:
            raise RequestError(f"limit is {limit}; give 1 or more", param="limit")
        return await self._store.dead_letters(recipient, limit)

    async def replay(self, message_id: str) -> MessageRow:
        """Send a dead letter once more.

        Raises:
            NotFoundError: there is none of this id.
        """
        return await self._deliveries.replay(message_id)

    @property
    def durable_on_the_way(self) -> int:
        """Durable messages that are not done."""
        return self._deliveries.on_the_way

    def standing(self) -> Standing:
        """How the agents stand now."""
        told = (one.capability for _, one in self._told_circuits.open_now(time.monotonic()))
        circuits = self.figures.open_circuits([*self.exchange.breakers.open(), *told])
        return Standing.of(self.registry, self.durable_on_the_way, circuits)

    def _most_attempts(self, recipient: str) -> int:
        found = [
            entry.spec.options.max_attempts
            for entry in self.registry
            if entry.name == recipient or recipient in entry.capabilities
        ]
        return max(found, default=MOST_ATTEMPTS)


async def _withdrawn(host: HostHandle, message_id: str, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds + _ANSWER_SECONDS):
            return await host.withdraw(message_id, seconds)
    except HostLostError:
        return True  # with all that it was at
    except (TimeoutError, UnavailableError) as error:
        logger.warning("host %s does not say whether it stopped: %s", host.name, error)
        return False
