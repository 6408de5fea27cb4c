"""A process's worth of agents: starts them, stops them, hands them over. Knows no Ray."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from actors.agent import Agent
from actors.agents.cell import Cell
from actors.agents.directory import Directory
from actors.agents.exchange import Exchange
from actors.agents.incoming import Incoming
from actors.agents.jobs import Work
from actors.agents.link import Remote
from actors.agents.messages import Message, Parcel, to_parcel
from actors.agents.outside import OutsideOf
from actors.agents.reports import AgentReport
from actors.agents.snapshots import States
from actors.agents.spec import AgentSpec, load_agent_class
from actors.agents.states import state_from_bytes
from actors.agents.threads import Threads
from actors.agents.work import named
from actors.breaker import OpenCircuit
from ironcliw.errors import AgentError, IroncliwError, RequestError

logger = logging.getLogger(__name__)

STOP_SECONDS = 2.0
"""For an agent's `on_stop`, and for a coroutine that does not want to be broken off."""
_THREADS = 32


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


class Host:
    """Runs agents on the event loop that is running.

    Args:
        name: unlike any other process's.
        directory: the registry.
        connect: name of a host -> the way to it.
        load: "module:Class" -> the class.

    Attributes:
        exchange: their way to other agents.
        incoming: what comes to them from other processes.
        states: theirs, while they go on.
        threads: where their plain methods run.
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
        self.incoming = Incoming(self._cells)
        self.states = States(self._cells)
        self.threads = Threads(_THREADS)
        self._loop = asyncio.get_running_loop()
        self._left: dict[Work, str] = {}  # of agents that are gone, with their messages' ids

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
        state = self.states.of(cell)
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
        state, topics = self.states.of(cell), cell.topics
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

    async def withdraw(self, message_id: str, seconds: float) -> bool:
        """Do nothing more for a message, also if it comes only now.

        Args:
            message_id: of it.
            seconds: how long work that was begun may take to end.

        Returns:
            Whether nothing is done for it here any more.
        """
        self.incoming.refuse(message_id)
        asked = [cell.withdraw(message_id) for cell in list(self._cells.values())]
        works = [work for work in asked if work is not None]
        # a copy, made at once: threads take from it
        works += [work for work, id_ in list(self._left.items()) if id_ == message_id]
        if works:
            ends = [asyncio.wrap_future(work, loop=self._loop) for work in works]
            await asyncio.wait(ends, timeout=seconds)
        return all(work.done() for work in works)

    async def _end(self, cell: Cell, reason: str) -> None:
        try:
            await asyncio.wait_for(cell.agent.on_stop(), STOP_SECONDS)
        except Exception:  # boundary: the user's method; the agent ends all the same
            logger.exception("agent %s: its on_stop failed", cell.name)
        self._cells.pop(cell.name, None)
        await self._close(cell, reason)

    async def _close(self, cell: Cell, reason: str) -> None:
        """Close a cell that is taken out; what it cannot break off is known until it has ended."""
        for work, message_id in cell.under_way:
            self._left[work] = message_id
            work.add_done_callback(self._forget)
        await cell.close(reason)

    def _forget(self, work: Work) -> None:
        self._left.pop(work, None)

    def report(self) -> list[AgentReport]:
        """How the agents fare. To be called every second or so: it also tidies up."""
        self.incoming.late.forget_the_gone()
        return [cell.report() for cell in self._cells.values()]

    def circuits(self) -> list[OpenCircuit]:
        """Capabilities that the agents of this process do not ask for a while."""
        return self.exchange.breakers.open_now(self._loop.time())

    async def kill(self) -> None:
        """End all agents without a word, as the end of the process would."""
        for cell in list(self._cells.values()):
            await cell.close("was lost with its process")
        self._cells.clear()
        self.exchange.close()
        self.incoming.late.wake()

    async def close(self) -> None:
        """Stop all agents at once."""
        for cell in list(self._cells.values()):
            await self._end(cell, "was stopped with its process")
        self.exchange.close()
        self.threads.close()


def _could_not(name: str, what: str, error: Exception) -> AgentError:
    return AgentError(f"agent {name!r} could not {what}: {named(error)}")
