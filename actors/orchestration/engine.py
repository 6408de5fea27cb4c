"""Drives open workflows: takes outcomes, time and requests in, starts and stops attempts.

What happens to a workflow goes through `advance`: its events are recorded, what they make startable
is queued, its next moment is noted, and the events are flushed. Attempts are started and stopped as
effects of a flush, so never before the event that says so is on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from actors.orchestration.asking import Asking, Entry, Gate
from actors.orchestration.attempts import Attempt, Attempts, Outcome
from actors.orchestration.commits import Commits, Journal
from actors.orchestration.holding import ROUND
from actors.orchestration.live import LiveWorkflow
from actors.orchestration.options import OrchestratorOptions
from actors.orchestration.start_queue import StartQueue, rank_of
from actors.orchestration.wake_ups import WakeUps
from actors.situation import Waiting
from actors.workflow import outcomes
from actors.workflow.calls import former_task, task_of
from actors.workflow.events import Event
from actors.workflow.tasks import Executor, StepError, StepTask
from actors.workflow.units import Unit
from ironcliw.errors import UnavailableError

_log = logging.getLogger(__name__)
Found = TypeVar("Found")
Committed = Callable[[str, list[Event]], None]


class Engine:
    """All open workflows of one orchestrator.

    Args:
        journal: Commits.
        executor: Does the work.
        clock: Unix seconds.
        options: Limits.
        committed: Told of each workflow's id and events once they are on the disk.
        gate: Asked before each start; None: all start as soon as they may.

    Attributes:
        lives: Open workflows by id.
        error: Why it has ended by itself; None: it has not.
        ended: Set when it has.
    """

    def __init__(
        self,
        journal: Journal,
        executor: Executor,
        clock: Callable[[], float],
        options: OrchestratorOptions,
        committed: Committed,
        gate: Gate | None = None,
    ) -> None:
        self.lives: dict[str, LiveWorkflow] = {}
        self.error: Exception | None = None
        self.ended = asyncio.Event()
        self.commits = Commits(
            journal, lambda live, events: committed(live.machine.id, events), self.end
        )
        self._executor = executor
        self._clock = clock
        self._options = options
        self._attempts: Attempts[Unit] = Attempts(executor, options.stop_seconds, self._outcome)
        self._queue: StartQueue[Entry] = StartQueue()
        self._asking = None if gate is None else Asking(gate, clock, self._ask_again)
        self._wake_ups: WakeUps[LiveWorkflow] = WakeUps(clock, self._wake)
        self._running = 0
        self._is_closing = False
        self._is_dispatching = False

    @property
    def running(self) -> int:
        """Attempts that were started and have not ended."""
        return self._running

    @property
    def queued(self) -> int:
        """Entries of the start queue; some may stand for steps that need not start any more."""
        return len(self._queue) + (0 if self._asking is None else len(self._asking))

    def add(self, live: LiveWorkflow, events: Iterable[Event] = ()) -> None:
        """Takes a workflow in, with events that were applied and are not recorded yet."""
        self.lives[live.machine.id] = live
        self.advance(live, events)

    def take_up(self, live: LiveWorkflow) -> None:
        """Takes in a workflow of an earlier orchestrator, and ends what must not go on of it."""
        machine = live.machine
        self.add(live, outcomes.recover(machine, self._clock()))
        for unit in list(machine.active):
            if outcomes.must_be_ended(machine, unit):
                self._running += 1
                live.running += 1
                # none of the live one's attempts: a workflow that turns must not break this off
                self._attempts.end(unit, former_task(machine, unit))

    def advance(self, live: LiveWorkflow, events: Iterable[Event]) -> None:
        """Something has happened to a workflow: have all that follows."""
        live.record(list(events))
        machine = live.machine
        if machine.goal is not None and not live.is_turned:
            live.is_turned = True
            live.record((), lambda: self._stop_attempts(live))
        now = self._clock()
        for unit in machine.take(now):
            ahead = live.queued + live.running
            rank = rank_of(live.facts.priority, time.monotonic(), ahead)
            self._push(Entry(live, unit, now, rank))
        self._wake_ups.set(live, machine.wake_at())
        if machine.finished is not None:
            live.record((), lambda: self._retire(live))
        self.something_happened()
        self._dispatch_soon()
        self.commits.flush(live)

    def something_happened(self) -> None:
        """Steps that were told to wait are asked about again, soon."""
        if self._asking is not None:
            self._asking.something_happened()

    async def node_leaving(self, node: str, deadline: float) -> None:
        """Starts idempotent steps of that node again; others have until the deadline."""
        moved: list[LiveWorkflow] = []
        error = StepError("moved", f"node {node} is going away")
        for attempt in self._attempts:
            if self._executor.node_of(attempt.task) != node:
                continue
            live = self.lives.get(attempt.task.workflow_id)
            if attempt.task.idempotent and live is not None and live.machine.goal is None:
                self._attempts.abandon(attempt, "moved")
                self._ended(live, attempt)
                self._fail(live, attempt, error)
                moved.append(live)
            else:
                self._attempts.stop_at(attempt, deadline - self._clock(), "left")
        for live in moved:
            await live.until_committed()

    async def close(self, seconds: float) -> None:
        """Starts nothing more, and stops what runs; what may not be repeated has that time."""
        self._is_closing = True
        self._wake_ups.close()
        self._ask_no_more()
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        await self.commits.drain(self._options.stop_seconds)  # what was started is launched
        while self._some_run_once() and (left := until - loop.time()) > 0:
            await self._attempts.wait(left)
            await self.commits.drain(self._options.stop_seconds)
        await self._attempts.close()
        await self.commits.close()

    def _some_run_once(self) -> bool:
        return any(not attempt.task.idempotent for attempt in self._attempts)

    # ------------------------------------------------------------------ starting

    def _dispatch_soon(self) -> None:
        # in the next turn of the loop: what ends together shares a commit with what it starts
        if self._queue and not self._is_dispatching:
            self._is_dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._is_dispatching = False
        if self._asking is not None:
            self._dispatch_round(self._asking)
            return
        while self._may_start_more():
            if (entry := self._next()) is not None:
                task = self._guarded(entry, partial(self._task_of, entry))
                if task is not None:
                    self._start(entry, task)

    def _may_start_more(self) -> bool:
        has_seat = self._running < self._options.max_running
        return bool(self._queue) and has_seat and not self._is_closing

    def _next(self) -> Entry | None:
        """The first of the queue; None where it need not start any more."""
        entry = self._queue.pop()
        entry.live.queued -= 1
        return entry if entry.live.machine.may_start(entry.unit) else None

    def _dispatch_round(self, asking: Asking) -> None:
        """Ask about those that go first; others have their turn after what else the loop has."""
        taken: list[tuple[Entry, Waiting]] = []
        while len(taken) < ROUND and self._may_start_more():
            if (entry := self._next()) is not None:
                task = self._guarded(entry, partial(self._task_of, entry))
                if task is not None:
                    taken.append((entry, asking.waiting(entry, task)))
        if taken:
            with asking.round([step for _, step in taken]) as order:
                for index in order:
                    self._ask(asking, *taken[index])
        if self._may_start_more():
            self._dispatch_soon()

    def _ask(self, asking: Asking, entry: Entry, step: Waiting) -> None:
        if self._is_closing or self._running >= self._options.max_running:
            self._push(entry)
        elif entry.live.machine.may_start(entry.unit):  # what went before may have turned it
            waits = self._guarded(entry, partial(asking.must_wait, entry, step))
            if waits is False:
                self._start(entry, step.task)

    def _push(self, entry: Entry) -> None:
        self._queue.push(entry, entry.rank)
        entry.live.queued += 1

    def _ask_again(self) -> None:
        assert self._asking is not None
        for entry in self._asking.take():
            self._push(entry)
        self._dispatch_soon()

    def _ask_no_more(self) -> None:
        if self._asking is not None:
            self._asking.close()

    def _task_of(self, entry: Entry) -> StepTask:
        live, call = entry.live, entry.unit.call
        declared = call.idempotent
        if declared is None:
            declared = self._executor.is_idempotent(call.kind, call.target, call.options)
        return task_of(live.machine, entry.unit, declared, live.facts.priority)

    def _guarded(self, entry: Entry, work: Callable[[], Found]) -> Found | None:
        """Do what a start needs; None: it failed, and the step has."""
        machine, unit = entry.live.machine, entry.unit
        try:
            return work()
        except StepError as error:
            refused = error
        # boundary: one step that cannot be put together, for want of memory too, ends alone; it is
        # out of the queue and nobody would hear of it again
        except Exception as error:  # noqa: BLE001  (logged, and told by the workflow)
            _log.exception("%s/%s cannot be started", machine.id, unit.step.name)
            why = f"it cannot be started: {type(error).__name__}: {error}"
            refused = StepError("error", why)
        self.advance(entry.live, outcomes.refuse(machine, unit, refused, self._clock()))
        return None

    def _start(self, entry: Entry, task: StepTask) -> None:
        live, unit = entry.live, entry.unit
        started = outcomes.start(live.machine, unit, task.idempotent, self._clock())
        self._running += 1
        live.running += 1
        live.record(started, lambda: self._launch(live, unit, task))
        self.commits.flush(live)

    def _launch(self, live: LiveWorkflow, unit: Unit, task: StepTask) -> None:
        if self.error is None:
            live.attempts[self._attempts.start(unit, task, self)] = None

    def leave(self) -> None:
        """An attempt only waits for a while; see `actors.workflow.seats`."""
        self._running -= 1
        self._dispatch_soon()

    def take(self) -> None:
        """It goes on."""
        self._running += 1

    def _stop_attempts(self, live: LiveWorkflow) -> None:
        for attempt in list(live.attempts):
            if not attempt.owner.undo:
                self._attempts.stop(attempt, "turned")

    # ------------------------------------------------------------------ what comes in

    def _outcome(self, attempt: Attempt[Unit], outcome: Outcome) -> None:
        live = self.lives[attempt.task.workflow_id]
        self._ended(live, attempt)
        now = self._clock()
        machine, unit, number = live.machine, attempt.owner, attempt.task.attempt
        match outcome:
            case None:
                self.advance(live, outcomes.stop(machine, unit, number, now))
            case StepError():
                self._fail(live, attempt, outcome)
            case _:
                self.advance(live, outcomes.succeed(machine, unit, number, outcome, now))

    def _ended(self, live: LiveWorkflow, attempt: Attempt[Unit]) -> None:
        live.attempts.pop(attempt, None)
        live.running -= 1
        self._running -= 1
        self._dispatch_soon()

    def _fail(self, live: LiveWorkflow, attempt: Attempt[Unit], error: StepError) -> None:
        events = outcomes.fail(
            live.machine, attempt.owner, attempt.task.attempt, error, self._clock()
        )
        self.advance(live, events)

    def _wake(self, live: LiveWorkflow) -> None:
        self.advance(live, outcomes.settle(live.machine, self._clock()))

    # ------------------------------------------------------------------ ends

    def _retire(self, live: LiveWorkflow) -> None:
        self._wake_ups.set(live, None)
        if not live.attempts and not live.has_pending:
            self.lives.pop(live.machine.id, None)

    def end(self, error: Exception) -> None:
        """Nothing can be committed any more: stops all, and tells whoever waits."""
        if self.error is not None:
            return
        _log.error("the orchestrator ends: %s", error)
        self.error = error
        self._is_closing = True
        self._queue.clear()
        self._ask_no_more()
        self._wake_ups.close()
        for attempt in self._attempts:
            self._attempts.abandon(attempt, "closing")
        for live in self.lives.values():
            live.fail(self.ended_error())
        self.ended.set()

    def ended_error(self) -> UnavailableError:
        """What is told to those who ask after `end`."""
        return UnavailableError(f"this orchestrator has ended: {self.error}")
