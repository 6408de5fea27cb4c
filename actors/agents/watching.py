"""Keeps agents alive: asks their hosts how they fare, and starts again what failed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from actors.agents.figures import Figures
from actors.agents.hosts import HostHandle
from actors.agents.last_restart import Cause
from actors.agents.link import HostLostError
from actors.agents.reports import REPORT_SECONDS, HostReport
from actors.agents.running import Place, Running
from actors.agents.saving import Saving
from actors.breaker import OpenCircuit
from actors.registry import AgentStatus, Entry, Registry
from actors.supervisor import Step, Supervisor, judge, to_blame
from ironcliw.errors import IroncliwError, UnavailableError

logger = logging.getLogger(__name__)

SILENT_POLLS = 3
"""A host that was silent so often in a row is taken for lost."""
EMPTY_POLLS = 30
"""A host that ran nothing so often in a row is ended: on Spot it holds a machine that costs."""
STARVED_SECONDS = 30.0
"""A plain method that has waited so long for a thread is told of."""
_LEAVE_SECONDS = 30.0
"""For the agents of a host that is given up without haste."""
_NO_MACHINE_SECONDS = 5.0
_Answer = TypeVar("_Answer")


class Watching:
    """Watches hosts and their agents.

    Args:
        registry: knows who is where.
        running: starts agents.
        supervisor: knows who failed when.
        leave: called with a host whose machine ends, and the seconds that are left.
        move_away: called with a host's place and agents that must be elsewhere.
        poll_seconds: between two looks.
        figures: counts what hosts report, and restarts.
    """

    def __init__(
        self,
        registry: Registry,
        running: Running,
        supervisor: Supervisor,
        leave: Callable[[str, float], Coroutine[Any, Any, None]],
        move_away: Callable[[Place, list[Entry]], Coroutine[Any, Any, None]],
        poll_seconds: float,
        figures: Figures,
    ) -> None:
        self._registry = registry
        self._running = running
        self._supervisor = supervisor
        self._leave = leave
        self._move_away = move_away
        self._poll_seconds = poll_seconds
        self._figures = figures
        self._restarts: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: set[Place] = set()
        self._last: dict[str, HostReport] = {}
        self._saving = Saving(registry, running.last_words)

    def start(self) -> None:
        """Watch until `close`."""
        self.spawn(self._watch())

    async def close(self) -> None:
        """Watch no longer; the agents go on."""
        tasks = [*self._tasks, *self._restarts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def restart(self, name: str, why: str, cause: Cause = "lost") -> None:
        """Start an agent again, without counting a failure."""
        self._note_restart(self._registry.get(name), cause, why)
        status = AgentStatus.MOVING if cause == "moved" else AgentStatus.RESTARTING
        self._registry.mark(name, status, why)
        self._again(name, self._bring_back(name))

    def started(self, name: str) -> None:
        """Somebody has started an agent: have the store know."""
        self._again(name, self._running.note(name))

    def forget(self, name: str) -> None:
        """An agent is being stopped."""
        self._supervisor.forget(name)
        self._saving.forget(name)
        if (task := self._restarts.pop(name, None)) is not None:
            task.cancel()

    def failed(self, name: str, why: str) -> None:
        """An agent is of no use as it is."""
        entry = self._registry.get(name)
        if entry.status is not AgentStatus.RUNNING:
            return  # something is done about it already
        logger.warning("agent %s failed: %s", name, why)
        self._registry.mark(name, AgentStatus.RESTARTING, why)
        self._again(name, self._recover(name, why))

    def _again(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            if self._restarts.get(name) is task:
                del self._restarts[name]
                if not task.cancelled() and (error := task.exception()) is not None:
                    self._not_brought_back(name, error)

        old = self._restarts.get(name)
        task = self._restarts[name] = asyncio.create_task(work, name=f"restart:{name}")
        task.add_done_callback(ended)
        if old is not None:
            old.cancel()

    def _not_brought_back(self, name: str, error: BaseException) -> None:
        """A bug, of which nobody else would hear: the agent would be restarting for ever."""
        logger.error("agent %s is not brought back", name, exc_info=error)
        entry = self._registry.get(name) if name in self._registry else None
        if entry is not None and entry.host is None:
            why = f"it could not be brought back: {type(error).__name__}: {error}"
            self._registry.mark(name, AgentStatus.FAILED, why)

    async def _bring_back(self, name: str) -> None:
        try:
            await self._start_until_it_runs(name)
        except IroncliwError as error:
            await self._recover(name, str(error))

    async def _recover(self, name: str, why: str) -> None:
        """Start a failed agent again, as often as the policy has it."""
        entry = self._registry.get(name)
        while True:
            isolated = entry.spec.options.isolated
            decision = self._supervisor.failed(name, time.monotonic(), isolated=isolated)
            if decision.step is Step.GIVE_UP:
                await self._give_up(name, why)
                return
            if decision.step is Step.ISOLATE:
                logger.warning("agent %s failed often: it gets a process of its own", name)
                options = replace(entry.spec.options, isolated=True)
                entry.spec = replace(entry.spec, options=options)
            await asyncio.sleep(decision.pause)
            self._note_restart(entry, "failed", why)
            try:
                await self._start_until_it_runs(name)
                return
            except IroncliwError as error:
                why = str(error)
                logger.warning("agent %s could not be started again: %s", name, why)
                self._registry.mark(name, AgentStatus.RESTARTING, why)

    def _note_restart(self, entry: Entry, cause: Cause, why: str) -> None:
        self._figures.restarts[cause] += 1
        entry.note_restart(cause, why, time.time())

    async def _start_until_it_runs(self, name: str) -> None:
        """Start an agent; a machine or a store that is not there is waited for."""
        while True:
            try:
                await self._running.start(name)
                break
            except HostLostError:
                raise  # it may be the agent that ends its process
            except UnavailableError as error:
                logger.warning("agent %s waits: %s", name, error)
                self._registry.mark(name, AgentStatus.RESTARTING, str(error))
                await asyncio.sleep(_NO_MACHINE_SECONDS)
        await self._running.note(name)

    async def _give_up(self, name: str, why: str) -> None:
        reason = f"given up after too many failures; the last: {why}"
        logger.error("agent %s: %s; start it again with `ironcliw agents start`", name, reason)
        self._registry.mark(name, AgentStatus.FAILED, reason)
        await self._running.note(name)

    async def _watch(self) -> None:
        while True:
            for place in list(self._running.places.values()):
                # each by itself: one that is slow to answer must not keep us from the others
                if place not in self._looking:
                    self._looking.add(place)
                    self.spawn(self._look_after(place))
            await asyncio.sleep(self._poll_seconds)

    async def _look_after(self, place: Place) -> None:
        handle = place.handle
        try:
            why = await self._look(place)
            if why is not None and self._running.places.get(handle.name) is place:
                await self.lost(handle.name, why)
        except Exception:
            # boundary: one host's trouble must not end the watch
            logger.exception("host %s could not be looked after", handle.name)
        finally:
            self._looking.discard(place)

    async def _look(self, place: Place) -> str | None:
        """See to a host and its agents; returns why the host must be given up, if it must."""
        host = place.handle.name
        expected = [entry.name for entry in self._registry.on_host(host)]
        try:
            report = await _within(place.handle.report())
        except HostLostError as error:
            return error.how or str(error)
        except (TimeoutError, UnavailableError) as error:
            place.silent_polls += 1
            said = str(error) or "it does not answer"
            logger.warning("host %s does not report: %s", host, said)
            return said if place.silent_polls >= SILENT_POLLS else None
        place.silent_polls = 0
        try:
            await self._see_to(place, report, expected)
        except HostLostError as error:
            return error.how or str(error)
        except (TimeoutError, UnavailableError) as error:  # it has just reported, so it lives
            logger.warning("host %s is slow: %s", host, str(error) or "no answer")
        return None

    async def _see_to(self, place: Place, report: HostReport, expected: list[str]) -> None:
        handle = place.handle
        self._figures.add(report)
        if not report.blocked_seconds:
            self._last[handle.name] = report
            for one in report.agents:
                self._registry.report(one, time.monotonic())
        notice = report.notice_seconds
        if notice is not None and place.ends_sooner(notice):
            place.leaving = True
            self.spawn(self._leave(handle.name, notice))
        if place.leaving:
            return
        await self._judge(place, report)
        if place.leaving:
            return
        if handle.name in self._running.places and not report.blocked_seconds:
            reported = [one.name for one in report.agents]
            self._miss(handle.name, set(expected).difference(reported))
            await self._drop_strangers(place, set(reported).difference(expected))
            if due := self._saving.due(handle.name, reported):
                self.spawn(self._saving.save(handle, due))
            await self._end_if_empty(place, reported)

    async def _end_if_empty(self, place: Place, reported: list[str]) -> None:
        """End a host that has run nothing for a while, and that nothing is started on."""
        host = place.handle.name
        if reported or place.in_motion or self._registry.on_host(host):
            place.empty_polls = 0
            return
        place.empty_polls += 1
        if place.empty_polls >= EMPTY_POLLS:
            logger.info("host %s runs no agent any more, and ends", host)
            place.leaving = True  # nobody is put there from now on
            await self._running.release(host)
            self._last.pop(host, None)
            self._figures.forget(host)

    def _miss(self, host: str, names: set[str]) -> None:
        for name in names:
            if name in self._registry and self._registry.get(name).host == host:
                self.failed(name, "its process does not know it")

    async def _judge(self, place: Place, report: HostReport) -> None:
        handle = place.handle
        verdict = judge(report, alone=place.kind is None)
        if verdict.kill is not None:
            await self.lost(handle.name, verdict.kill, verdict.to_blame)
            return
        self._tell_of_threads(place, report)
        for entry in self._registry.on_host(handle.name):
            why = verdict.to_blame.get(entry.name)
            if why is not None and self._is_still_on(entry, handle.name):
                await _within(handle.drop_agent(entry.name, f"failed: {why}"))
                if self._is_still_on(entry, handle.name):
                    self.failed(entry.name, why)
        found = self._registry.on_host(handle.name)
        there = [entry for entry in found if entry.name in verdict.move]
        if there:
            self._move(place, there)
        if verdict.leave is not None:
            logger.warning("the agents of host %s move: %s", handle.name, verdict.leave)
            place.leaving = True
            self.spawn(self._leave(handle.name, _LEAVE_SECONDS))

    def _move(self, place: Place, entries: list[Entry]) -> None:
        names = ", ".join(entry.name for entry in entries)
        logger.warning("agents of host %s move, which get no thread: %s", place.handle.name, names)
        self.spawn(self._move_away(place, entries))

    def _tell_of_threads(self, place: Place, report: HostReport) -> None:
        """Say once that plain methods do not come to their turn, which nobody would see."""
        starved = report.thread_wait_seconds >= STARVED_SECONDS
        if starved and not place.starved:
            logger.error(
                "host %s: a plain method has waited for a thread for %.0f s; all are busy, %d of "
                "them for agents that are gone; give such methods `timeout_seconds`, or their "
                "agents `isolated`",
                place.handle.name,
                report.thread_wait_seconds,
                report.lost_threads,
            )
        if starved:
            place.starved_at = time.monotonic()

    async def _drop_strangers(self, place: Place, names: set[str]) -> None:
        """End what runs there and was not put there: its start was broken off too late."""
        for name in names:
            if not place.in_motion[name] and not self._is_on(name, place.handle):
                logger.warning("host %s runs agent %s, which it must not", place.handle.name, name)
                await _within(place.handle.drop_agent(name, "does not belong here"))

    def _is_on(self, name: str, handle: HostHandle) -> bool:
        return name in self._registry and self._registry.get(name).host == handle.name

    def _is_still_on(self, entry: Entry, host: str) -> bool:
        """Whether nobody has stopped an agent meanwhile, or started it elsewhere."""
        return self._registry.has(entry) and entry.host == host

    async def circuits(self) -> dict[str, list[OpenCircuit]]:
        """Host -> the circuits that are open there; one that does not answer is left out."""
        handles = [place.handle for place in self._running.places.values()]
        results = await asyncio.gather(*map(_circuits_of, handles))
        return {handle.name: one for handle, one in zip(handles, results, strict=True) if one}

    async def lost(self, host: str, why: str, to_be_blamed: dict[str, str] | None = None) -> None:
        """A host's process ended, or must: its agents are started elsewhere."""
        entries = self._registry.on_host(host)
        names = [entry.name for entry in entries]
        blamed = to_be_blamed
        if blamed is None:
            blamed = dict.fromkeys(to_blame(self._last.get(host), names), why)
        self._last.pop(host, None)
        self._figures.forget(host)
        logger.warning("host %s with %d agents is lost: %s", host, len(names), why)
        # before they are started again: nothing of the old process may still be at it
        await self._running.end(host)
        for entry in entries:
            if not self._is_still_on(entry, host):
                continue
            if entry.name in blamed:
                self.failed(entry.name, blamed[entry.name])
            else:
                self.restart(entry.name, why)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done meanwhile; `close` breaks it off."""

        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _within(answer: Awaitable[_Answer]) -> _Answer:
    """What somebody answers.

    Raises:
        TimeoutError: it takes too long.
    """
    async with asyncio.timeout(REPORT_SECONDS):
        return await answer


async def _circuits_of(handle: HostHandle) -> list[OpenCircuit]:
    try:
        return await _within(handle.circuits())
    except (TimeoutError, UnavailableError) as error:
        logger.info("host %s does not tell of its circuits: %s", handle.name, error)
        return []
