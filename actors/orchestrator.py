"""Runs durable workflows: what users and the cluster ask of them.

The state of each open workflow is in memory (`actors.workflow`, pure), its events are in the state
store, and nothing is done before the event that says so is on the disk. One orchestrator at a time
leads: the journal refuses to commit for any other, which then ends by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from actors.orchestration.asking import Gate
from actors.orchestration.commits import Journal
from actors.orchestration.engine import Committed, Engine
from actors.orchestration.live import LiveWorkflow
from actors.orchestration.loading import load_all_open, load_one, summary_of
from actors.orchestration.options import OrchestratorOptions
from actors.orchestration.submissions import check_same, prepare
from actors.workflow import outcomes, requests
from actors.workflow.definition import Definition
from actors.workflow.events import Event
from actors.workflow.machine import Machine
from actors.workflow.tasks import Executor
from actors.workflow.views import Facts, view_of
from actors.workflow_records import EventRow, events_after, list_, load
from ironcliw.errors import IroncliwError, UnavailableError
from ironcliw.schemas.base import Priority
from ironcliw.schemas.workflows import WorkflowEvent, WorkflowStatus, WorkflowView

_PAGE = 1000


class Orchestrator:
    """Runs workflows; one a state store leads.

    Args:
        journal: Commits, as long as its lease says that we lead.
        executor: Runs steps.
        clock: Unix seconds.
        options: Limits.
        committed: Told of each workflow's id and events once they are on the disk.
        check: Refuses definitions that cannot run here, such as with functions that nobody has
            registered.
        gate: Asked before each step starts; None: it starts as soon as it may.
    """

    def __init__(
        self,
        journal: Journal,
        executor: Executor,
        clock: Callable[[], float] = time.time,
        options: OrchestratorOptions | None = None,
        committed: Committed = lambda workflow_id, events: None,
        check: Callable[[Definition], None] = lambda definition: None,
        gate: Gate | None = None,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._check = check
        self._options = options or OrchestratorOptions()
        self._engine = Engine(journal, executor, clock, self._options, committed, gate)
        self._submitting: dict[tuple[str, str], asyncio.Future[str]] = {}
        self._state = "not started"

    @property
    def open(self) -> int:
        """Workflows that have not ended."""
        return len(self._engine.lives)

    def open_by_status(self) -> Mapping[str, int]:
        """How many of them stand where."""
        return Counter(live.machine.status for live in self._engine.lives.values())

    @property
    def running(self) -> int:
        """Steps that run."""
        return self._engine.running

    @property
    def queued(self) -> int:
        """Steps that wait for a place among those that run."""
        return self._engine.queued

    async def start(self) -> None:
        """Takes up all open workflows, and returns when all of them go on.

        Steps that ran when the last orchestrator ended are started again where they are
        idempotent; others become uncertain. What may be undone and still runs is stopped first.

        Raises:
            UnavailableError: Somebody else leads.
            StoreError: The store cannot be used.
        """
        assert self._state == "not started", "an orchestrator starts once"
        self._state = "starting"
        lives = await self._journal.read(partial(load_all_open, limits=self._options.limits))
        for index, live in enumerate(lives):
            self._engine.take_up(live)
            if index % 100 == 99:  # what has come up meanwhile gets a turn
                await asyncio.sleep(0)
        for live in lives:
            await live.until_committed()
        if self._state == "starting":  # else it was closed meanwhile
            self._state = "running"

    async def submit(
        self,
        definition: Mapping[str, Any] | Definition,
        inputs: Mapping[str, Any] | None = None,
        *,
        owner: str = "local",
        key: str | None = None,
        priority: Priority | None = None,
        deadline: float | None = None,
    ) -> WorkflowView:
        """Starts a workflow; it is on the disk when this returns.

        Args:
            definition: As YAML or JSON has it, or checked already.
            inputs: By name.
            owner: Name of the API key, or "local".
            key: The same key of the same owner gives the workflow that there is; it has to have the
                same definition and inputs.
            priority: Instead of the definition's.
            deadline: Unix seconds, instead of the definition's.

        Raises:
            RequestError: The definition or the inputs break a rule.
            RequestTooLargeError: They are too large.
            ConflictError: The key was used for another definition, or for other inputs.
            UnavailableError: This orchestrator does not lead, or not yet.
        """
        self._check_running()
        live = prepare(
            definition,
            inputs or {},
            self._clock(),
            owner=owner,
            key=key,
            priority=priority,
            deadline=deadline,
            limits=self._options.limits,
        )
        self._check(live.machine.definition)
        events = outcomes.submit(live.machine, live.machine.created_at)
        if key is not None:
            stored = await self._submit_once(live, events, (owner, key))
            if stored != live.machine.id:
                check_same(live, await self._journal.read(partial(load, workflow_id=stored)))
            return await self.get(stored)
        self._engine.add(live, events)
        await live.until_committed()
        return view_of(live.machine, live.facts)

    async def get(self, workflow_id: str, *, with_outputs: bool = False) -> WorkflowView:
        """A workflow as it stands.

        Raises:
            NotFoundError: There is none of that id.
        """
        machine, facts = await self._load(workflow_id)
        return view_of(machine, facts, with_outputs=with_outputs)

    async def list(
        self,
        *,
        status: WorkflowStatus | None = None,
        name: str | None = None,
        owner: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[WorkflowView]:
        """Workflows without their steps, newest first.

        Args:
            status: Only those that stand so.
            name: Only those of this definition.
            owner: Only those of this owner.
            limit: At most so many.
            before: Id of the last one of the page before.

        Raises:
            NotFoundError: There is no workflow `before`.
        """
        wanted: dict[str, Any] = {"status": status, "name": name, "owner": owner}
        work = partial(list_, limit=limit, before=before, **wanted)
        return [summary_of(row) for row in await self._journal.read(work)]

    async def events(self, workflow_id: str, after: int = 0) -> AsyncIterator[WorkflowEvent]:
        """Committed events with a number above `after`, and those that follow, to the end.

        Raises:
            NotFoundError: There is no workflow of that id.
            UnavailableError: This orchestrator does not lead any more.
        """
        await self._load(workflow_id)
        while True:
            live = self._engine.lives.get(workflow_id)
            changed = None if live is None else live.next_commit(after)
            work = partial(events_after, workflow_id=workflow_id, seq=after, limit=_PAGE)
            rows = await self._journal.read(work)
            for row in rows:
                yield _told(row)
                after = row.seq
            if changed is None and len(rows) < _PAGE:
                return
            if changed is not None and not rows:
                await changed

    async def wait(self, workflow_id: str, timeout_seconds: float | None = None) -> WorkflowView:
        """Waits until the workflow has ended, or waits for its user (`uncertain`), or that long.

        Raises:
            NotFoundError: There is none of that id.
            UnavailableError: This orchestrator does not lead any more.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                while (live := self._engine.lives.get(workflow_id)) is not None:
                    await live.until_committed()
                    if live.machine.finished or live.machine.status == "uncertain":
                        break
                    await live.next_commit(live.machine.next_seq)
        except TimeoutError:
            pass  # the caller sees where it stands
        return await self.get(workflow_id)

    async def cancel(self, workflow_id: str) -> WorkflowView:
        """Stops what runs and undoes what was done; returns when that has begun.

        Raises:
            NotFoundError: There is none of that id.
            ConflictError: It has ended, or is failing.
            UnavailableError: This orchestrator does not lead, or not yet.
        """
        return await self._ask(workflow_id, requests.cancel)

    async def pause(self, workflow_id: str) -> WorkflowView:
        """Starts nothing new; raises as `cancel`."""
        return await self._ask(workflow_id, requests.pause)

    async def resume(self, workflow_id: str) -> WorkflowView:
        """Goes on after a pause; raises as `cancel`."""
        return await self._ask(workflow_id, requests.resume)

    async def retry(self, workflow_id: str, step: str, item: int | None = None) -> WorkflowView:
        """Runs an uncertain step again, or one that waits for its next attempt at once.

        Raises:
            NotFoundError: There is no such workflow, step or item.
            ConflictError: The step is not uncertain and does not wait.
            UnavailableError: This orchestrator does not lead, or not yet.
        """
        return await self._ask(
            workflow_id, lambda machine, now: requests.retry(machine, step, item, now)
        )

    async def skip(
        self, workflow_id: str, step: str, item: int | None = None, value: Any = None
    ) -> WorkflowView:
        """Takes an uncertain or waiting step as done, with that value; raises as `retry`.

        Raises:
            RequestError: The value is no JSON, or too large.
        """
        return await self._ask(
            workflow_id, lambda machine, now: requests.skip(machine, step, item, value, now)
        )

    async def node_leaving(self, node: str, deadline: float) -> None:
        """A node is going away: its idempotent steps are started again, elsewhere, at once.

        Other steps have until then, and become uncertain if they have not ended. May be told again,
        so that what has begun there meanwhile is no exception.

        Args:
            node: As the executor's `node_of` names it.
            deadline: Unix seconds.
        """
        await self._engine.node_leaving(node, deadline)

    def something_happened(self) -> None:
        """A machine came or went, or memory came free: steps that wait are asked about again."""
        self._engine.something_happened()

    async def until_ended(self) -> Exception:
        """Waits until it has ended by itself, and gives the reason: somebody else leads."""
        await self._engine.ended.wait()
        assert self._engine.error is not None, "that is what it was set for"
        return self._engine.error

    async def close(self, seconds: float = 0.0) -> None:
        """Ends: nothing more is started, and the next one takes up what has not ended.

        Args:
            seconds: For running steps that are not idempotent; others are started again.
        """
        self._state = "closed"
        await self._engine.close(seconds)

    # ------------------------------------------------------------------ its parts

    def _check_running(self) -> None:
        if self._engine.error is not None:
            raise self._engine.ended_error()
        if self._state != "running":
            raise UnavailableError(f"this orchestrator is {self._state}; try again")

    async def _submit_once(
        self, live: LiveWorkflow, events: Sequence[Event], key: tuple[str, str]
    ) -> str:
        earlier = self._submitting.get(key)
        if earlier is not None:
            return await asyncio.shield(earlier)
        # nothing may start before it is known that this is the first with the key
        task = asyncio.get_running_loop().create_task(self._insert(live, events))
        self._submitting[key] = task
        task.add_done_callback(lambda _: self._submitting.pop(key, None))
        return await asyncio.shield(task)

    async def _insert(self, live: LiveWorkflow, events: Sequence[Event]) -> str:
        live.record(events)
        try:
            stored = await self._engine.commits.insert(live)
        except IroncliwError as error:
            self._engine.end(error)
            raise self._engine.ended_error() from error
        if stored == live.machine.id:
            self._engine.add(live)
        return stored

    async def _load(self, workflow_id: str) -> tuple[Machine, Facts]:
        live = self._engine.lives.get(workflow_id)
        if live is not None:
            await live.until_committed()
            return live.machine, live.facts
        work = partial(load_one, workflow_id=workflow_id, limits=self._options.limits)
        return await self._journal.read(work)

    async def _ask(
        self, workflow_id: str, request: Callable[[Machine, float], Sequence[Event]]
    ) -> WorkflowView:
        self._check_running()
        live = self._engine.lives.get(workflow_id)
        if live is None:
            machine, facts = await self._load(workflow_id)
            # it has ended, or cannot be read: the request says so, or there is nothing to do
            request(machine, self._clock())
            return view_of(machine, facts)
        self._engine.advance(live, request(live.machine, self._clock()))
        await live.until_committed()
        return view_of(live.machine, live.facts)


def _told(row: EventRow) -> WorkflowEvent:
    return WorkflowEvent(
        seq=row.seq,
        at=row.at,
        kind=row.kind,
        step=row.step,
        item=row.item,
        attempt=row.attempt,
        data=row.data or {},
    )
