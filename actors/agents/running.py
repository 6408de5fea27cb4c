"""Puts agents on hosts: which one, a new one where there is no room, with the last state."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.agents.hosts import HOME_PLACES, HostHandle, HostPlan, Hosts
from actors.agents.link import HostLostError
from actors.agents.messages import Parcel
from actors.agents.records import AgentStore
from actors.agents.rows import options_json
from actors.registry import AgentStatus, Entry, Registry
from ironcliw.errors import SettingsError, UnavailableError

logger = logging.getLogger(__name__)

LIGHT_AGENTS = 500
"""Most agents that share a process."""
_LAST_WORD_SECONDS = 1.0
"""For an agent that was started on a machine that is going away."""
_RELEASE_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class Place:
    """A host and whom it is for.

    Attributes:
        handle: the host.
        kind: machine and environment of agents that may share it; None: it is one agent's own.
        leaving: its machine ends, nobody is put there any more.
        silent_polls: how often in a row it did not report.
    """

    handle: HostHandle
    kind: tuple[str, str] | None
    leaving: bool = False
    silent_polls: int = 0


class Running:
    """Starts agents where they belong.

    Args:
        registry: is told where they are.
        hosts: starts processes.
        store: has their last states.
        home_memory_gb: agents of place "any" go to the cloud when those at home need more.
        cloud: there can be machines in the cloud.
    """

    def __init__(
        self,
        registry: Registry,
        hosts: Hosts,
        store: AgentStore,
        *,
        home_memory_gb: float,
        cloud: bool,
    ) -> None:
        self.places: dict[str, Place] = {}
        self._registry = registry
        self._hosts = hosts
        self._store = store
        self._home_memory_gb = home_memory_gb
        self._cloud = cloud
        self._numbers = itertools.count()
        self._launching: dict[tuple[str, str], asyncio.Lock] = {}
        self._carried: dict[str, tuple[float, list[Parcel]]] = {}

    def carry(self, name: str, parcels: list[Parcel]) -> None:
        """Keep what an agent had accepted at its old place until it has been started again."""
        if parcels:
            self._carried[name] = time.monotonic(), [*self._take_carried(name), *parcels]

    def forget(self, name: str) -> None:
        """An agent is gone for good, and with it the messages that were kept for it."""
        if lost := len(self._take_carried(name)):
            logger.warning("agent %s is stopped before it had moved: %d messages lost", name, lost)

    async def start(self, name: str) -> None:
        """Start an agent on a host, from its last state, with the messages that were kept for it.

        Raises:
            UnavailableError: there is no machine for it, or its process ended meanwhile.
            IroncliwError: the agent itself could not be made or started.
        """
        while not await self._start(self._registry.get(name)):
            logger.info("agent %s was started on a machine that goes away: once more", name)

    async def _start(self, entry: Entry) -> bool:
        """False: the machine goes away, and the agent with it."""
        name = entry.name
        place = await self._place_for(entry)
        state = await self._store.snapshot(name)
        try:
            await place.handle.start_agent(entry.spec, state)
            # before anybody can find it there: what is newer comes after them
            if parcels := self._take_carried(name):
                await place.handle.replay(parcels)
        except HostLostError:
            if place.leaving:
                return False
            # nobody else is put there; the watch finds it, and looks after those that were there
            place.silent_polls += 1
            raise
        except BaseException:  # cancelled, too: a process made for it alone must not stay
            if place.kind is None:
                await self.end(place.handle.name)
            raise
        if name not in self._registry:  # it was stopped meanwhile
            await place.handle.drop_agent(name, "was stopped")
            return True
        if place.leaving:
            await self._take_back(name, place)
            return False
        if self.places.get(place.handle.name) is not place:
            raise HostLostError(f"host {place.handle.name} ended while agent {name!r} was started")
        self._registry.placed(name, place.handle.name, place.handle.node)
        await self._store.change(
            name,
            status=AgentStatus.RUNNING.value,
            node=place.handle.node,
            restarts=entry.restarts,
            isolated=entry.spec.options.isolated,
            options=options_json(entry.spec),
        )
        return True

    async def _take_back(self, name: str, place: Place) -> None:
        """An agent was started on a host whose others have moved already."""
        try:
            handed = await place.handle.hand_over(name, _LAST_WORD_SECONDS)
        except HostLostError:
            return  # it has its state and its messages of before, or they went with the machine
        self.carry(name, handed.parcels)
        if handed.state is not None:
            await self._store.save_snapshots({name: handed.state})

    def _take_carried(self, name: str) -> list[Parcel]:
        """With the deadlines that are left."""
        since, parcels = self._carried.pop(name, (0.0, []))
        waited = time.monotonic() - since
        for parcel in parcels:
            if parcel.seconds_left is not None:
                parcel.seconds_left = max(0.0, parcel.seconds_left - waited)
        return parcels

    async def find_again(self) -> None:
        """Take up the hosts that an earlier system has left, with the agents that they run."""
        for handle in await self._hosts.find():
            try:
                report = await handle.report()
            except HostLostError:
                continue
            names = [one.name for one in report.agents]
            own = [self._registry.get(name) for name in names if name in self._registry]
            alone = len(own) == 1 and own[0].spec.options.isolated
            kind = None if alone or not own else _kind(own[0], _where(handle.name))
            if not own:
                await handle.kill()
                continue
            self.places[handle.name] = Place(handle, kind)
            for one in report.agents:
                if one.name not in self._registry or self._registry.get(one.name).host is not None:
                    # stopped meanwhile, or started elsewhere while this host could not be reached
                    await handle.drop_agent(one.name, "does not belong here any more")
                else:
                    self._registry.placed(one.name, handle.name, handle.node)
                    self._registry.report(one, time.monotonic())

    async def end(self, host: str) -> None:
        """End a host's process, whatever it does."""
        place = self.places.pop(host, None)
        if place is not None:
            await place.handle.kill()

    async def release(self, host: str) -> None:
        """End a host's process, whose agents have stopped, once their last answers are out."""
        if (place := self.places.get(host)) is None:
            return
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await place.handle.released()
        except (TimeoutError, UnavailableError) as error:
            logger.info("host %s ends without a word: %s", host, str(error) or "no answer")
        await self.end(host)

    async def _place_for(self, entry: Entry) -> Place:
        where = self._machine_for(entry)
        if entry.spec.options.isolated:
            return await self._launch(entry, where, None)
        kind = _kind(entry, where)
        # two agents that come together share one new host
        async with self._launching.setdefault(kind, asyncio.Lock()):
            for place in self.places.values():
                if place.kind == kind and not place.leaving and not place.silent_polls:
                    if len(self._registry.on_host(place.handle.name)) < LIGHT_AGENTS:
                        return place
            return await self._launch(entry, where, kind)

    async def _launch(self, entry: Entry, where: str, kind: tuple[str, str] | None) -> Place:
        spec = entry.spec
        label = spec.name if kind is None else "shared"
        # the process's id: an earlier system may have counted the same numbers
        name = f"agents-{where}-{label}-{os.getpid()}-{next(self._numbers)}"
        options = spec.options if kind is None else None
        plan = HostPlan(name, where, options, spec.environment)
        handle = await self._hosts.launch(plan)
        place = self.places[name] = Place(handle, kind)
        return place

    def _machine_for(self, entry: Entry) -> str:
        options = entry.spec.options
        if options.place not in HOME_PLACES:
            if not self._cloud:
                raise SettingsError(
                    f"agent {entry.name!r} has place 'spot' and this head has no machines in the "
                    "cloud: set cloud.project, or give it another place"
                )
            return "spot"
        if options.place != "any" or not self._cloud:
            return "local"
        at_home = sum(
            one.spec.options.memory_gb
            for one in self._registry
            if one.host is not None and _where(one.host) == "local"
        )
        return "local" if at_home + options.memory_gb <= self._home_memory_gb else "spot"


def _where(host: str) -> str:
    return host.split("-")[1]


def _kind(entry: Entry, where: str) -> tuple[str, str]:
    return where, environment_text(entry.spec.environment)


def environment_text(environment: Mapping[str, Any]) -> str:
    """An environment as text that is the same for the same one."""
    return json.dumps(environment, sort_keys=True, default=str)
