"""What callers ask of workflows, as plain values: the control actor's part `workflows`. No Ray.

Who may see what is decided here: an owner sees its own workflows, None sees all.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol

from sqlalchemy import Connection

from actors.results import Results, address_of
from actors.workflow.definition import define
from actors.workflow.graph import Definition
from actors.workflow.permissions import check_scopes
from actors.workflow_records import EventRow, WorkflowRow, events_after, load
from ironcliw.errors import NotFoundError
from ironcliw.schemas.base import Priority
from ironcliw.schemas.workflows import FINISHED, WorkflowView

_RESULTS_AT_ONCE = 4
Action = Literal["cancel", "pause", "resume"]


class Orchestrator(Protocol):
    """What is needed of `actors.orchestrator.Orchestrator`."""

    async def submit(
        self,
        definition: Mapping[str, Any] | Definition,
        inputs: Mapping[str, Any],
        *,
        owner: str,
        key: str | None = None,
        priority: Priority | None = None,
        deadline: float | None = None,
    ) -> WorkflowView: ...

    async def get(self, workflow_id: str, *, with_outputs: bool = False) -> WorkflowView: ...

    async def list(
        self,
        *,
        status: Any = None,
        name: str | None = None,
        owner: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> Sequence[WorkflowView]: ...

    def events(self, workflow_id: str, after: int = 0) -> AsyncIterator[Any]: ...

    async def cancel(self, workflow_id: str) -> WorkflowView: ...

    async def pause(self, workflow_id: str) -> WorkflowView: ...

    async def resume(self, workflow_id: str) -> WorkflowView: ...

    async def retry(self, workflow_id: str, step: str, item: int | None = None) -> WorkflowView: ...

    async def skip(
        self, workflow_id: str, step: str, item: int | None = None, value: Any = None
    ) -> WorkflowView: ...


class Reader(Protocol):
    """What reads the store: `actors.journal.Journal`."""

    async def read(self, work: Callable[[Connection], Any]) -> Any:
        """Run it on one snapshot."""


class WorkflowService:
    """Checks what is asked, and asks the orchestrator.

    Args:
        orchestrator: Does it.
        reader: Reads what has finished, too.
        results: Those that are kept by reference.
    """

    METHODS = frozenset({"submit", "get", "list_", "act", "retry", "skip", "events", "result"})
    """What the control actor lets others call."""

    def __init__(self, orchestrator: Orchestrator, reader: Reader, results: Results) -> None:
        self._orchestrator = orchestrator
        self._reader = reader
        self._results = results
        # each of them is in this process for a moment, and may be large
        self._reading = asyncio.Semaphore(_RESULTS_AT_ONCE)

    async def submit(
        self,
        definition: Mapping[str, Any],
        inputs: Mapping[str, Any],
        owner: str,
        key: str | None = None,
        priority: Priority | None = None,
        deadline_seconds: float | None = None,
        scopes: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Start a workflow, which is durable when this returns.

        Args:
            definition: As YAML or JSON has it.
            inputs: By name.
            owner: Name of the API key, or "local".
            key: See `Orchestrator.submit`.
            priority: Instead of the definition's.
            deadline_seconds: From now.
            scopes: What the API key may do; None: everything.

        Raises:
            RequestError: The definition or an input breaks a rule; `param` is its path.
            PermissionDeniedError: The scopes do not allow a step.
        """
        checked = define(definition)
        check_scopes(checked, scopes)
        view = await self._orchestrator.submit(
            checked,
            inputs,
            owner=owner,
            key=key,
            priority=priority,
            deadline=None if deadline_seconds is None else time.time() + deadline_seconds,
        )
        return view.model_dump(mode="json")

    async def get(
        self, workflow_id: str, owner: str | None, outputs: bool = False
    ) -> dict[str, Any]:
        """One workflow with its steps, and its definition.

        Raises:
            NotFoundError: there is none that the owner may see.
        """
        row = await self._row(workflow_id, owner)
        view = await self._orchestrator.get(workflow_id, with_outputs=outputs)
        return {**view.model_dump(mode="json"), "definition": row.definition}

    async def list_(
        self,
        owner: str | None,
        status: str | None = None,
        name: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[dict[str, Any]]:
        """Workflows without steps, the newest first."""
        views = await self._orchestrator.list(
            status=status, name=name, owner=owner, limit=limit, before=before
        )
        return [view.model_dump(mode="json", exclude={"steps"}) for view in views]

    async def act(self, workflow_id: str, owner: str | None, action: Action) -> dict[str, Any]:
        """Cancel, pause or resume."""
        await self._row(workflow_id, owner)
        acts = {
            "cancel": self._orchestrator.cancel,
            "pause": self._orchestrator.pause,
            "resume": self._orchestrator.resume,
        }
        return (await acts[action](workflow_id)).model_dump(mode="json")

    async def retry(
        self, workflow_id: str, owner: str | None, step: str, item: int | None
    ) -> dict[str, Any]:
        """Run a step again that stands as uncertain."""
        await self._row(workflow_id, owner)
        return (await self._orchestrator.retry(workflow_id, step, item)).model_dump(mode="json")

    async def skip(
        self, workflow_id: str, owner: str | None, step: str, item: int | None, value: Any
    ) -> dict[str, Any]:
        """Go on without a step that stands as uncertain."""
        await self._row(workflow_id, owner)
        view = await self._orchestrator.skip(workflow_id, step, item, value)
        return view.model_dump(mode="json")

    async def events(
        self, workflow_id: str, owner: str | None, after: int, wait_seconds: float, limit: int
    ) -> dict[str, Any]:
        """A page of events, waiting for the first of them.

        Returns:
            `events`, and `finished`: there are no more after these, and there will be none.
        """
        await self._row(workflow_id, owner)
        page = await self._page(workflow_id, after, limit)
        if page["events"] or page["finished"] or wait_seconds <= 0:
            return page
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_seconds):
                events = self._orchestrator.events(workflow_id, after)
                await anext(events, None)
        return await self._page(workflow_id, after, limit)

    async def result(self, workflow_id: str, owner: str | None, digest: str) -> bytes:
        """A result that is kept by reference, as JSON.

        Args:
            workflow_id: Whose it is.
            owner: See `get`.
            digest: The last part of its address, `result:WORKFLOW/DIGEST`.

        Raises:
            NotFoundError: there is none that the owner may see, or its file is gone.
            RequestError: the digest is none.
        """
        await self._row(workflow_id, owner)
        address = address_of(workflow_id, digest)
        async with self._reading:
            return await asyncio.to_thread(self._results.read, workflow_id, address)

    async def _page(self, workflow_id: str, after: int, limit: int) -> dict[str, Any]:
        def read(connection: Connection) -> tuple[WorkflowRow, list[EventRow]]:
            row = load(connection, workflow_id)
            return row, events_after(connection, workflow_id, after, limit)

        row, events = await self._reader.read(read)
        last = events[-1].seq if events else after
        finished = row.status in FINISHED and last >= row.next_seq - 1
        return {"events": [asdict(event) for event in events], "finished": finished}

    async def _row(self, workflow_id: str, owner: str | None) -> WorkflowRow:
        row: WorkflowRow = await self._reader.read(lambda connection: load(connection, workflow_id))
        if owner is not None and row.owner != owner:
            # as if there were none: whose it is, is nobody's business
            raise NotFoundError(f"there is no workflow {workflow_id!r}; list those there are")
        return row
