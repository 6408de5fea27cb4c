"""A process's worth of agents: starts and stops them, takes messages for them. Knows no Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.agent import Agent
from actors.agents.answers import LateAnswers
from actors.agents.cell import Cell
from actors.agents.directory import Directory
from actors.agents.exchange import Exchange
from actors.agents.jobs import Work
from actors.agents.link import Outcome, Remote
from actors.agents.messages import (
    Message,
    MovedError,
    Parcel,
    from_parcel,
    to_parcel,
    withdrawn,
)
from actors.agents.options import AgentOptions
from actors.agents.outside import OutsideOf
from actors.agents.packing import pack
from actors.agents.reports import AgentReport
from actors.agents.states import state_from_bytes, state_to_bytes
from actors.agents.threads import Threads
from actors.breaker import OpenCircuit
from cluster.names import load_by_name
from ironcliw.errors import AgentError, IroncliwError, RequestError, SettingsError

logger = logging.getLogger(__name__)

LINGER_SECONDS = 0.002
"""A call waits so long for the answers to its messages; those that take longer are collected."""
STOP_SECONDS = 2.0
"""For an agent's `on_stop`, and for a coroutine that does not want to be broken off."""
FETCH_SECONDS = 2.0
"""How long a process that ends waits for its last answers to be fetched."""
MOST_WITHDRAWN = 10_000
"""Messages that are not taken if they come after they were withdrawn."""
SNAPSHOT_BYTES = 8 * 1024**2
"""States of so many bytes are given at once, and one more."""
STATES_SECONDS = 0.2
"""States that take so long to make are given at once, and one more; a hold may double its time."""
_ON_THE_WAY_SECONDS = 0.1  # an answer that was fetched is still to be sent
_THREADS = 32


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """All that it takes to make an agent.

    Attributes:
        name: by which others reach it.
        class_name: "module:Class".
        arguments: of its `__init__`.
        options: how it is run.
        environment: Ray's runtime environment, in which the class can be imported.
    """

    name: str
    class_name: str
    arguments: Mapping[str, Any]
    options: AgentOptions
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HandedOver:
    """What is left of an agent that moves.

    Attributes:
        state: its snapshot; None: it has none.
        parcels: messages that it had accepted and not begun.
        topics: those that it listened to.
    """

    state: bytes | None = None
    parcels: list[Parcel] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Snapshots:
    """States of agents that go on. One that is in none of these gave no state, or is not there.

    Attributes:
        states: by name.
        busy: agents that were in the midst of a plain method.
        left: agents to be asked again at once: these are enough for one answer.
        seconds: that it took to make them.
    """

    states: dict[str, bytes] = field(default_factory=dict)
    busy: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    seconds: float = 0.0


def load_agent_class(class_name: str) -> type[Agent]:
    """The class that "module:Class" names.

    Raises:
        SettingsError: it cannot be loaded, or is no subclass of `Agent`.
    """
    found = load_by_name(class_name)
    if not (isinstance(found, type) and issubclass(found, Agent)):
        raise SettingsError(f"{class_name!r} is no class of agents; derive it from Agent")
    return found


class Host:
    """Runs agents on the event loop that is running.

    Args:
        name: unlike any other process's.
        directory: the registry.
        connect: name of a host -> the way to it.
        load: "module:Class" -> the class.
    """

    def __init__(
        self,
        name: str,
        directory: Directory,
        connect: Callable[[str], Remote],
        load: Callable[[str], type[Agent]] = load_agent_class,
    ) -> None:
        self.name = name
        self._load = load
        self._cells: dict[str, Cell] = {}
        self.exchange = Exchange(name, directory, connect, self._cells)
        self.threads = Threads(_THREADS)
        self._loop = asyncio.get_running_loop()
        self._late = LateAnswers()
        self._withdrawn: dict[str, None] = {}
        self._left: dict[Work, str] = {}  # of agents that are gone, with their messages' ids
        self._one_state = asyncio.Lock()

    async def start_agent(self, spec: AgentSpec, state: bytes | None) -> None:
        """Make an agent and start it; one of its name, left by a start that was broken off, ends.

        Args:
            spec: what to make.
            state: a snapshot to go on from.

        Raises:
            SettingsError: its class cannot be loaded.
            AgentError: it raised while it was made, restored or started, or was stopped meanwhile.
        """
        try:
            agent = self._load(spec.class_name)(**spec.arguments)
            if state is not None:
                agent.restore(state_from_bytes(state))
        except IroncliwError:
            raise
        except Exception as error:  # boundary: the user's class
            raise _could_not(spec.name, "be made", error) from error
        cell = Cell(spec.name, agent, spec.options, self.threads)
        agent._outside = OutsideOf(spec.name, self.exchange, lambda: cell)
        # before it is started: it may ask, and be asked, at once
        old, self._cells[spec.name] = self._cells.get(spec.name), cell
        try:
            if old is not None:
                await self._close(old, "is started anew")
            await cell.start()
        # the user's code; a start that is cancelled is taken back, too
        except BaseException as error:
            if self._cells.get(spec.name) is cell:
                del self._cells[spec.name]
            await self._close(cell, "could not be started")
            if isinstance(error, IroncliwError) or not isinstance(error, Exception):
                raise
            raise _could_not(spec.name, "be started", error) from error

    async def stop_agent(self, name: str, seconds: float) -> bytes | None:
        """Finish what is there for at most `seconds`, then stop; returns the last state."""
        cell = self._cells.get(name)
        if cell is None:
            return None
        await cell.finish(seconds)
        state = self._state_of(cell)
        await self._end(cell, "was stopped")
        return state

    async def drop_agent(self, name: str, reason: str) -> None:
        """End an agent that is of no use any more, without a word from it."""
        if (cell := self._cells.pop(name, None)) is not None:
            await self._close(cell, reason)

    async def hand_over(self, name: str, seconds: float) -> HandedOver:
        """Stop an agent so that it can go on elsewhere.

        Args:
            name: of the agent.
            seconds: for what it is at; what takes longer is broken off.
        """
        cell = self._cells.get(name)
        if cell is None:
            return HandedOver()
        rest = await cell.hold(seconds)
        state, topics = self._state_of(cell), cell.topics
        await self._end(cell, "has moved to another process")
        return HandedOver(state, list(self._parcels(rest)), topics)

    def hurry(self, seconds: float) -> None:
        """Agents that are being stopped or handed over have no longer than that for it."""
        for cell in self._cells.values():
            cell.hurry(seconds)

    def _parcels(self, messages: list[Message]) -> Iterator[Parcel]:
        now = self._loop.time()
        for message in messages:
            try:
                yield to_parcel(message, now, wants_reply=False)
            except RequestError as error:  # it was sent within this process, as the object it is
                logger.error("agent %s: a message is lost: %s", message.recipient, error)

    async def snapshots(self, names: list[str], hold_seconds: float = 0.0) -> Snapshots:
        """States of agents that give one and are not in the midst of a plain method.

        Args:
            names: of them.
            hold_seconds: how long they begin with no plain method so that one which runs can end.
        """
        found = Snapshots()
        cells = [self._cells[name] for name in names if name in self._cells]

        def task(cell: Cell) -> asyncio.Task[None]:
            # by its name one that keeps the event loop for itself is known
            work = self._snapshot(cell, found, hold_seconds)
            return self._loop.create_task(work, name=f"agent:{cell.name}")

        await asyncio.gather(*map(task, cells))
        return found

    async def _snapshot(self, cell: Cell, found: Snapshots, hold_seconds: float) -> None:
        async with cell.between_methods(hold_seconds) as is_between:
            if not is_between:
                found.busy.append(cell.name)
                return
            async with self._one_state:
                await asyncio.sleep(0)  # whatever else there is has its turn between two
                if _are_enough(found, hold_seconds):
                    found.left.append(cell.name)
                elif self._cells.get(cell.name) is cell:
                    begun = self._loop.time()
                    if (state := self._state_of(cell)) is not None:
                        found.states[cell.name] = state
                    found.seconds += self._loop.time() - begun

    def _state_of(self, cell: Cell) -> bytes | None:
        if cell.in_thread:
            logger.warning("agent %s: a method is at its state, the last good one stays", cell.name)
            return None
        try:
            return state_to_bytes(cell.agent.snapshot())
        except Exception:  # boundary: the user's method; what it cannot save is lost, and said
            logger.exception("agent %s: its snapshot failed, the last good one stays", cell.name)
            return None

    async def _end(self, cell: Cell, reason: str) -> None:
        try:
            await asyncio.wait_for(cell.agent.on_stop(), STOP_SECONDS)
        except Exception:  # boundary: the user's method; the agent ends all the same
            logger.exception("agent %s: its on_stop failed", cell.name)
        self._cells.pop(cell.name, None)
        await self._close(cell, reason)

    async def deliver(self, sender: str, parcels: list[Parcel]) -> list[Outcome | None]:
        """See `Remote.deliver`."""
        now = self._loop.time()
        found = [self._take_in(parcel, now) for parcel in parcels]
        waiting = [one for one in found if isinstance(one, asyncio.Future) and not one.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=LINGER_SECONDS)
        outcomes: list[Outcome | None] = []
        for parcel, one in zip(parcels, found, strict=True):
            if not isinstance(one, asyncio.Future):
                outcomes.append(one)
            elif one.done():
                outcomes.append(_outcome(one))
            else:
                outcomes.append(None)
                one.add_done_callback(self._keeper(sender, parcel.fields[0]))
        return outcomes

    def _take_in(self, parcel: Parcel, now: float) -> Outcome | asyncio.Future[Any]:
        try:
            message = from_parcel(parcel, now)
            if message.id in self._withdrawn:
                raise withdrawn()
            cell = self._cells.get(message.recipient)
            if cell is None:
                raise MovedError(f"agent {message.recipient!r} is not here", retry_after=0.1)
            if parcel.wants_reply:
                return cell.post(message)
            return cell.accept(message) or (True, None)
        except IroncliwError as error:
            return False, error

    def _keeper(self, sender: str, id_: str) -> Callable[[asyncio.Future[Any]], None]:
        def keep(future: asyncio.Future[Any]) -> None:
            self._late.keep(sender, id_, _outcome(future))

        return keep

    async def collect(self, sender: str) -> list[tuple[str, Outcome]]:
        """See `Remote.collect`."""
        return await self._late.collect(sender)

    async def withdraw(self, message_id: str, seconds: float) -> bool:
        """Do nothing more for a message, also if it comes only now.

        Args:
            message_id: of it.
            seconds: how long work that was begun may take to end.

        Returns:
            Whether nothing is done for it here any more.
        """
        self._withdrawn[message_id] = None
        if len(self._withdrawn) > MOST_WITHDRAWN:
            del self._withdrawn[next(iter(self._withdrawn))]
        asked = [cell.withdraw(message_id) for cell in list(self._cells.values())]
        works = [work for work in asked if work is not None]
        # a copy, made at once: threads take from it
        works += [work for work, id_ in list(self._left.items()) if id_ == message_id]
        if works:
            ends = [asyncio.wrap_future(work, loop=self._loop) for work in works]
            await asyncio.wait(ends, timeout=seconds)
        return all(work.done() for work in works)

    async def _close(self, cell: Cell, reason: str) -> None:
        """Close a cell that is taken out; what it cannot break off is known until it has ended."""
        for work, message_id in cell.under_way:
            self._left[work] = message_id
            work.add_done_callback(self._forget)
        await cell.close(reason)

    def _forget(self, work: Work) -> None:
        self._left.pop(work, None)

    async def answers_fetched(self) -> None:
        """Return when nobody has late answers to fetch any more, or after two seconds."""
        deadline = self._loop.time() + FETCH_SECONDS
        # no event for it: this is at the end of a process alone
        while self._late.waiting and self._loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(_ON_THE_WAY_SECONDS)

    def report(self) -> list[AgentReport]:
        """How the agents fare. To be called every second or so: it also tidies up."""
        self._late.forget_the_gone()
        return [cell.report() for cell in self._cells.values()]

    def circuits(self) -> list[OpenCircuit]:
        """Capabilities that the agents of this process do not ask for a while."""
        return self.exchange.breakers.open_now(self._loop.time())

    async def replay(self, parcels: list[Parcel]) -> None:
        """Give an agent that came from elsewhere the messages that it had accepted there."""
        for parcel in parcels:
            message: Message = from_parcel(parcel, self._loop.time())
            try:
                if (cell := self._cells.get(message.recipient)) is not None:
                    cell.accept(message)
            except IroncliwError as error:  # its sender has gone on long since
                logger.error("agent %s: a message is lost: %s", message.recipient, error)

    async def kill(self) -> None:
        """End all agents without a word, as the end of the process would."""
        for cell in list(self._cells.values()):
            await cell.close("was lost with its process")
        self._cells.clear()
        self.exchange.close()
        self._late.wake()

    async def close(self) -> None:
        """Stop all agents at once."""
        for cell in list(self._cells.values()):
            await self._end(cell, "was stopped with its process")
        self.exchange.close()
        self.threads.close()


def _could_not(name: str, what: str, error: Exception) -> AgentError:
    return AgentError(f"agent {name!r} could not {what}: {type(error).__name__}: {error}")


def _are_enough(found: Snapshots, hold_seconds: float) -> bool:
    size = sum(map(len, found.states.values()))
    return size >= SNAPSHOT_BYTES or found.seconds >= max(STATES_SECONDS, hold_seconds)


def _outcome(future: asyncio.Future[Any]) -> Outcome:
    if future.cancelled():
        return False, MovedError("the agent was stopped", retry_after=0.1)
    error = future.exception()
    if error is not None and not isinstance(error, IroncliwError):
        error = AgentError(f"{type(error).__name__}: {error}")
    try:
        if error is not None:
            # its class may be the user's own, and unknown to whoever asked
            return False, pack(error, "the error of an agent")
        return True, pack(future.result(), "the answer of an agent")
    except IroncliwError as not_sent:
        return False, not_sent
