"""Which agents there are, what they can do, where they are and how they fare. Pure.

A lookup answers from tuples that are kept ready: they are made anew when an agent comes, goes or
reports, not when somebody asks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from actors.agents.directory import Listing
from actors.agents.last_restart import COUNTED, Cause, LastRestart
from actors.agents.options import Capability
from actors.agents.reports import AgentReport, Tally
from actors.agents.spec import AgentSpec
from actors.selection import Candidate
from ironcliw.errors import ConflictError, NotFoundError, UnavailableError

HALF_LIFE_SECONDS = 300.0
"""After it an answer counts half in an agent's averages."""
NOBODY_WAITS = (0, 0, 0, 0)


class AgentStatus(StrEnum):
    """How an agent is."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    """It failed, or its process did; it is started again."""
    MOVING = "moving"
    """Its machine ends; it goes on elsewhere."""
    FAILED = "failed"
    """It failed too often and is left alone until somebody starts it."""


@dataclass(slots=True)
class Record:
    """How a capability of an agent has fared lately; what is old counts less.

    Attributes:
        successes: messages.
        failures: messages.
        seconds: of work, of both together.
        at: when the figures were as they stand, by the caller's clock.
    """

    successes: float = 0.0
    failures: float = 0.0
    seconds: float = 0.0
    at: float = 0.0

    def add(self, tally: Tally, now: float) -> None:
        """Count what has been dealt with since."""
        faded = 0.5 ** (max(0.0, now - self.at) / HALF_LIFE_SECONDS)
        self.successes = self.successes * faded + tally.calls - tally.failures
        self.failures = self.failures * faded + tally.failures
        self.seconds = self.seconds * faded + tally.seconds
        self.at = now

    @property
    def average_seconds(self) -> float | None:
        """Of a message; None: there was none."""
        calls = self.successes + self.failures
        return self.seconds / calls if calls > 0 else None


@dataclass(slots=True)
class Entry:
    """One agent.

    Attributes:
        spec: what it takes to make it.
        capabilities: by their names.
        status: how it is.
        registered_at: Unix time.
        host: name of the process that runs it.
        node: Ray's id of its machine.
        pid: of that process.
        restarts: how often it was started again because it failed, or its process ended.
        last_restart: why it was started again last, for whatever cause; None: it never was.
        reason: why it is not running.
        load: messages that wait or are worked on.
        by_priority: those that wait, the most urgent first.
        records: capability -> how it has fared.
        topics: those that it listens to.
        start: number of the start by which it runs, or ran last, unlike that of any other start.
    """

    spec: AgentSpec
    capabilities: Mapping[str, Capability]
    status: AgentStatus
    registered_at: float
    host: str | None = None
    node: str | None = None
    pid: int | None = None
    restarts: int = 0
    last_restart: LastRestart | None = None
    reason: str | None = None
    load: int = 0
    by_priority: tuple[int, ...] = NOBODY_WAITS
    records: dict[str, Record] = field(default_factory=dict)
    topics: set[str] = field(default_factory=set)
    start: int = 0
    _idempotent: frozenset[str] = frozenset()
    _candidates: dict[str | None, Candidate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._idempotent = frozenset(n for n, one in self.capabilities.items() if one.idempotent)

    @property
    def name(self) -> str:
        """Of the agent."""
        return self.spec.name

    def candidate(self, capability: str | None) -> Candidate:
        """The agent as one that a message may go to; for a capability, or for its name."""
        if (known := self._candidates.get(capability)) is None:
            known = self._candidates[capability] = self._candidate(capability)
        return known

    def changed(self) -> None:
        """Forget what was made of the figures."""
        self._candidates.clear()

    def _candidate(self, capability: str | None) -> Candidate:
        found = self.capabilities.get(capability) if capability else None
        record = self.records.get(capability or "", None) or Record()
        return Candidate(
            self.name,
            self.host or "",
            self.node or "",
            self.load,
            found.concurrency if found else 1,
            record.average_seconds,
            record.successes,
            record.failures,
            self._idempotent,
        )

    def note_restart(self, cause: Cause, reason: str, now: float) -> None:
        """It is started again; `now` is Unix time."""
        self.last_restart = LastRestart(cause, reason, now)
        self.restarts += cause in COUNTED

    def as_json(self) -> dict[str, Any]:
        """For people and programs."""
        options, last = self.spec.options, self.last_restart
        return {
            "name": self.name,
            "class": self.spec.class_name,
            "status": self.status.value,
            "reason": self.reason,
            "place": options.place,
            "isolated": options.isolated,
            "host": self.host,
            "node": self.node,
            "pid": self.pid,
            "restarts": self.restarts,
            "last_restart": None if last is None else last.as_json(),
            "registered_at": self.registered_at,
            "load": self.load,
            "memory_gb": options.memory_gb,
            "topics": sorted(self.topics),
            "capabilities": {name: self._capability_json(name) for name in self.capabilities},
        }

    def _capability_json(self, name: str) -> dict[str, Any]:
        found, record = self.capabilities[name], self.records.get(name) or Record()
        return {
            "concurrency": found.concurrency,
            "idempotent": found.idempotent,
            "average_seconds": record.average_seconds,
            "recent_successes": round(record.successes, 1),
            "recent_failures": round(record.failures, 1),
        }


class Registry:
    """All agents of the cluster."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._offers: dict[str, dict[str, None]] = {}  # capability -> names, in their order
        self._listings: dict[str, Listing] = {}
        self._starts = itertools.count(1)
        self.on_change: Callable[[], None] = lambda: None
        """Called when an agent has come, gone or changed."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def has(self, entry: Entry) -> bool:
        """Whether an agent is there still, and not another one of its name."""
        return self._entries.get(entry.name) is entry

    def add(self, entry: Entry) -> None:
        """Enter an agent.

        Raises:
            ConflictError: there is one of that name, or its name is a capability of another, or
                it offers what another is named.
        """
        if entry.name in self._entries:
            raise ConflictError(
                f"there is an agent {entry.name!r} already; stop it first, or give another name",
                param="name",
            )
        clash = next((one for one in entry.capabilities if one in self._entries), None)
        if entry.name in self._offers or entry.name in entry.capabilities:
            clash = entry.name
        if clash is not None:
            raise ConflictError(
                f"{clash!r} would name both an agent and a capability, and nobody could tell which "
                "is meant; give the agent another name",
                param="name",
            )
        self._entries[entry.name] = entry
        for capability in entry.capabilities:
            self._offers.setdefault(capability, {})[entry.name] = None
        self._changed(entry)

    def remove(self, name: str) -> Entry:
        """Strike an agent out.

        Raises:
            NotFoundError: there is none of that name.
        """
        entry = self.get(name)
        del self._entries[name]
        for capability in entry.capabilities:
            offering = self._offers[capability]
            offering.pop(name)
            if not offering:
                del self._offers[capability]
        self._changed(entry)
        return entry

    def get(self, name: str) -> Entry:
        """An agent.

        Raises:
            NotFoundError: there is none of that name.
        """
        if (entry := self._entries.get(name)) is None:
            known = ", ".join(sorted(self._entries)[:10]) or "none"
            raise NotFoundError(f"there is no agent {name!r}; there are: {known}", param="name")
        return entry

    def placed(self, name: str, host: str, node: str, pid: int | None = None) -> None:
        """An agent runs on a host."""
        entry = self.get(name)
        entry.host, entry.node, entry.pid = host, node, pid
        entry.load, entry.reason = 0, None
        entry.status, entry.start = AgentStatus.RUNNING, next(self._starts)
        self._changed(entry)

    def mark(self, name: str, status: AgentStatus, reason: str | None) -> None:
        """An agent does not run, and why."""
        entry = self.get(name)
        entry.status, entry.reason = status, reason
        entry.host = entry.node = entry.pid = None
        entry.load, entry.by_priority = 0, NOBODY_WAITS
        self._changed(entry)

    def report(self, report: AgentReport, now: float) -> None:
        """Take an agent's figures; one that is not known is passed over."""
        entry = self._entries.get(report.name)
        if entry is None:
            return
        entry.topics.update(report.topics)
        entry.by_priority = report.by_priority
        load = report.waiting + report.running
        if load == entry.load and not report.tallies:
            return
        entry.load = load
        for name, tally in report.tallies.items():
            entry.records.setdefault(name, Record(at=now)).add(tally, now)
        self._changed(entry)

    def on_host(self, host: str) -> list[Entry]:
        """The agents of a host."""
        return [entry for entry in self._entries.values() if entry.host == host]

    def starts_on(self, host: str, names: Iterable[str]) -> dict[str, int]:
        """Of those of some agents that run on a host: by which start they do."""
        found = (self._entries.get(name) for name in names)
        return {entry.name: entry.start for entry in found if entry and entry.host == host}

    def offering(self, capability: str) -> list[Entry]:
        """Those that have a capability, however they are."""
        return [self._entries[name] for name in self._offers.get(capability, ())]

    def look_up(self, target: str) -> Listing:
        """Those that take messages for a name or a capability.

        Raises:
            NotFoundError: nobody has it.
            UnavailableError: whoever has it takes no messages now.
        """
        if (listing := self._listings.get(target)) is None:
            listing = self._listings[target] = self._listing(target)
        return listing

    def _listing(self, target: str) -> Listing:
        by_name = target in self._entries
        names = [target] if by_name else list(self._offers.get(target, ()))
        if not names:
            known = ", ".join(sorted(self._offers)[:20]) or "none"
            raise NotFoundError(
                f"no agent is named {target!r} or offers it (capabilities: {known}); start one "
                "with `ironcliw agents start`, or wait for it: a step says "
                f"`agent: {{capability: {target}, wait_seconds: 30}}`, Python `ask(..., "
                "wait_seconds=30)`, and `ironcliw agents send --durable` waits without an answer",
                param="target",
                code="unknown_agent",
            )
        entries = [self._entries[name] for name in names]
        found = tuple(
            entry.candidate(None if by_name else target)
            for entry in entries
            if entry.status is AgentStatus.RUNNING
        )
        if not found:
            one = entries[0]
            raise UnavailableError(
                f"{target!r} takes no messages now: agent {one.name!r} is {one.status}"
                + (f" ({one.reason})" if one.reason else ""),
                code="agent_" + one.status,
            )
        return Listing(by_name, found)

    def subscribers(self, topic: str) -> tuple[Candidate, ...]:
        """Who listens to a topic and takes messages now."""
        return tuple(
            entry.candidate(None)
            for entry in self._entries.values()
            if topic in entry.topics and entry.status is AgentStatus.RUNNING
        )

    def subscribe(self, topic: str, name: str, *, on: bool) -> None:
        """An agent listens to a topic, or no longer does.

        Raises:
            NotFoundError: there is no such agent.
        """
        topics = self.get(name).topics
        if on:
            topics.add(topic)
        else:
            topics.discard(topic)

    def _changed(self, entry: Entry) -> None:
        entry.changed()
        self._listings.pop(entry.name, None)
        for capability in entry.capabilities:
            self._listings.pop(capability, None)
        self.on_change()
