"""Puts agents on hosts: which one, a new one where there is no room, with the last state."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from actors.agents.hosts import HOME_PLACES, HostHandle, HostPlan, Hosts
from actors.agents.last_words import LastWords
from actors.agents.link import HostGoneError, HostLostError
from actors.agents.messages import Parcel
from actors.agents.records import AgentStore
from actors.agents.reports import REPORT_SECONDS, HostReport
from actors.agents.rows import options_json
from actors.registry import Entry, Registry
from actors.supervisor import BLOCKED_SECONDS
from ironcliw.errors import AgentError, SettingsError, StoreError, UnavailableError

logger = logging.getLogger(__name__)

LIGHT_AGENTS = 500
"""Most agents that share a process."""
_LAST_WORD_SECONDS = 1.0
"""For an agent that was started on a machine that is going away."""
_RELEASE_SECONDS = 5.0
_HAIR_SECONDS = 0.5
_STARVED_SECONDS = 300.0
_STORE_PAUSE_SECONDS = 1.0
_ASK_AGAIN_SECONDS = 0.5


@dataclass(eq=False, slots=True)
class Place:
    """A host and whom it is for.

    Attributes:
        handle: the host.
        kind: machine and environment of agents that may share it; None: it is one agent's own.
        leaving: it ends, or its machine; nobody is put there any more.
        ends_at: moment of the monotonic clock by which its agents must have left; no end is known
            of one that goes on.
        silent_polls: how often in a row it did not report.
        empty_polls: how often in a row it ran nothing, and nothing was started there.
        starved_at: moment of the monotonic clock at which plain methods of it last waited long for
            a thread.
        in_motion: agents that are being started or stopped there just now.
    """

    handle: HostHandle
    kind: tuple[str, str] | None
    leaving: bool = False
    ends_at: float = math.inf
    silent_polls: int = 0
    empty_polls: int = 0
    starved_at: float = -math.inf
    in_motion: Counter[str] = field(default_factory=Counter)

    @property
    def starved(self) -> bool:
        """Whether its threads are all busy, or were some minutes ago: nobody is put there."""
        return time.monotonic() < self.starved_at + _STARVED_SECONDS

    def ends_sooner(self, seconds: float) -> bool:
        """Whether an end in so many seconds is a nearer one than was known, and not by a hair."""
        return time.monotonic() + seconds < self.ends_at - _HAIR_SECONDS

    @contextmanager
    def moving(self, name: str) -> Iterator[None]:
        """An agent is being started or stopped there: nobody may wonder that it runs."""
        self.in_motion[name] += 1
        try:
            yield
        finally:
            self.in_motion[name] -= 1
            if not self.in_motion[name]:
                del self.in_motion[name]


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
        self.last_words = LastWords(store)

    async def start(self, name: str) -> None:
        """Start an agent on a host, from its last state, with the messages that were kept for it.

        Raises:
            UnavailableError: there is no machine for it, or its process ended meanwhile.
            IroncliwError: the agent itself could not be made or started, or somebody stopped it.
        """
        entry = self._registry.get(name)
        while not await self._start(entry):
            logger.info("agent %s was started on a machine that goes away: once more", name)

    async def _start(self, entry: Entry) -> bool:
        """False: the machine goes away, and the agent with it."""
        place = await self._place_for(entry)
        with place.moving(entry.name):
            return await self._start_at(place, entry)

    async def _start_at(self, place: Place, entry: Entry) -> bool:
        name = entry.name
        try:
            await self._have_started(place.handle, entry)
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
        if not self._registry.has(entry):
            if place.kind is None:
                await self.end(place.handle.name)
            elif name not in self._registry:  # else the newer one takes its place
                await place.handle.drop_agent(name, "was stopped")
            raise AgentError(f"agent {name!r} was stopped while it started")
        if place.leaving:
            await self._take_back(name, place)
            return False
        if self.places.get(place.handle.name) is not place:
            raise HostLostError(f"host {place.handle.name} ended while agent {name!r} was started")
        self._registry.placed(name, place.handle.name, place.handle.node, place.handle.pid)
        return True

    async def _have_started(self, handle: HostHandle, entry: Entry) -> None:
        state = await self.last_words.state_of(entry.name)
        if self._registry.has(entry):  # else it might end a newer one of its name
            await handle.start_agent(entry.spec, state)
        if self._registry.has(entry):
            # before anybody can find it there: what is newer comes after them
            await self._replay(handle, entry)

    async def _replay(self, handle: HostHandle, entry: Entry) -> None:
        """Give an agent what was kept for it; what it has surely not taken is kept on."""
        parcels = self.last_words.take_parcels(entry.name)
        if not parcels:
            return
        try:
            await handle.replay(parcels)
        except BaseException as error:  # cancelled, too
            if self._registry.has(entry):
                is_sure = isinstance(error, HostGoneError)
                again = [one for one in parcels if is_sure or _may_come_twice(one, entry)]
                self.last_words.carry(entry.name, again)
                if lost := len(parcels) - len(again):
                    words = "agent %s: %d messages are lost: nobody knows whether it had them"
                    logger.error(words, entry.name, lost)
            raise

    async def _take_back(self, name: str, place: Place) -> None:
        """An agent was started on a host whose others have moved already."""
        try:
            handed = await place.handle.hand_over(name, _LAST_WORD_SECONDS)
        except HostLostError:
            return  # it has its state and its messages of before, or they went with the machine
        self.last_words.carry(name, handed.parcels)
        await self.last_words.keep(name, handed.state)

    async def break_off(self, name: str) -> None:
        """Have no host go on with the start of an agent; whoever asked for it is told."""
        for place in list(self.places.values()):
            if place.in_motion[name]:
                try:
                    async with asyncio.timeout(REPORT_SECONDS):
                        await place.handle.drop_agent(name, "was stopped")
                except (TimeoutError, UnavailableError) as error:  # at the next report it must not
                    words = "host %s still starts agent %s: %s"
                    logger.warning(words, place.handle.name, name, str(error) or "no answer")

    async def note(self, name: str) -> None:
        """Have the store know how an agent is; a store that is away, as soon as it is back."""
        while name in self._registry:
            entry = self._registry.get(name)
            try:
                await self._store.change(
                    name,
                    status=entry.status.value,
                    node=entry.node,
                    restarts=entry.restarts,
                    isolated=entry.spec.options.isolated,
                    options=options_json(entry),
                )
                await self.last_words.save_kept(name)
                if not self.last_words.is_unsaved(name):
                    return
            except StoreError as error:
                logger.error("the store does not take that agent %s is so: %s", name, error)
            await asyncio.sleep(_STORE_PAUSE_SECONDS)

    async def find_again(self) -> None:
        """Take up the hosts that an earlier system has left, with the agents that they run."""
        handles = await self._hosts.find()
        reports = await asyncio.gather(*map(_report_of, handles))
        for handle, report in zip(handles, reports, strict=True):
            if report is None:
                await handle.kill()
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
                # one that was stopped meanwhile, or started elsewhere while this host could not be
                # reached, is dropped by the watch
                if one.name in self._registry and self._registry.get(one.name).host is None:
                    self._registry.placed(one.name, handle.name, handle.node, handle.pid)
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
                well = not (place.leaving or place.silent_polls or place.starved)
                if place.kind == kind and well:
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


async def _report_of(handle: HostHandle) -> HostReport | None:
    """What a host runs; None: it does not say.

    One whose event loop stands still may only be busy. It is asked again for as long as the watch
    would.
    """
    try:
        async with asyncio.timeout(BLOCKED_SECONDS + REPORT_SECONDS):
            while (report := await handle.report()).blocked_seconds:
                if report.blocked_seconds >= BLOCKED_SECONDS:
                    logger.warning("host %s is not taken up: it blocks", handle.name)
                    return None
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
            return report
    except (TimeoutError, UnavailableError) as error:
        logger.warning("host %s is not taken up: %s", handle.name, str(error) or "no answer")
        return None


def _may_come_twice(parcel: Parcel, entry: Entry) -> bool:
    capability = entry.capabilities.get(parcel.capability or "")
    return capability is not None and capability.idempotent


def _where(host: str) -> str:
    return host.split("-")[1]


def _kind(entry: Entry, where: str) -> tuple[str, str]:
    return where, environment_text(entry.spec.environment)


def environment_text(environment: Mapping[str, Any]) -> str:
    """An environment as text that is the same for the same one."""
    return json.dumps(environment, sort_keys=True, default=str)
