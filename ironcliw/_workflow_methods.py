"""What `Client` and `AsyncClient` have for workflows; a test keeps the two alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any

import httpx

from ironcliw import _workflows as calls
from ironcliw._connection import AsyncConnection, Connection
from ironcliw._events import EventReader
from ironcliw._session import checked
from ironcliw.errors import DeadlineExceededError, NotRunningError, UnavailableError
from ironcliw.schemas.base import Priority
from ironcliw.schemas.workflows import FINISHED, WorkflowEvent, WorkflowView

_PASSING = (UnavailableError, NotRunningError)


class WorkflowMethods(Connection):
    """Workflows, blocking."""

    def submit_workflow(
        self,
        definition: Mapping[str, Any],
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        priority: Priority | None = None,
        deadline_seconds: float | None = None,
    ) -> WorkflowView:
        """Start a workflow; it is durable once this returns.

        Args:
            definition: As a YAML file has it.
            inputs: By their names in the definition.
            key: A submission with the same key gives the workflow that there is; None: a new one,
                which makes sending it again after a broken connection harmless.
            priority: In place of the definition's.
            deadline_seconds: In place of the definition's.

        Raises:
            RequestError: The definition or an input breaks a rule; `param` is its path.
            ConflictError: The key was used with another definition or other inputs (`key_reused`).
            PermissionDeniedError: The API key lacks the scope `workflow`.
        """
        call = calls.submit_call(definition, inputs, key, priority, deadline_seconds)
        return self._run(call)

    def workflow(self, workflow_id: str, *, outputs: bool = False) -> WorkflowView:
        """One workflow with its steps; with `outputs` what each of them gave.

        Raises:
            NotFoundError: There is none with this id.
        """
        return self._run(calls.workflow_call(workflow_id, outputs))

    def workflows(
        self,
        *,
        status: str | None = None,
        name: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[WorkflowView]:
        """Workflows, the newest first; `before` is the last id of the page before."""
        return self._run(calls.workflows_call(status, name, limit, before))

    def workflow_result(self, reference: str | Mapping[str, Any]) -> Any:
        """A result that is too large for the store.

        Args:
            reference: What stands in its place, `{"$reference": "result:ID/DIGEST", ...}`, or the
                address alone.

        Raises:
            NotFoundError: There is no such result any more.
        """
        return self._run(calls.result_call(reference))

    def cancel_workflow(self, workflow_id: str) -> WorkflowView:
        """Stop what runs, and undo what has compensations; harmless to repeat."""
        return self._run(calls.action_call(workflow_id, "cancel"))

    def pause_workflow(self, workflow_id: str) -> WorkflowView:
        """Start no further step; those that run end."""
        return self._run(calls.action_call(workflow_id, "pause"))

    def resume_workflow(self, workflow_id: str) -> WorkflowView:
        """Go on after a pause."""
        return self._run(calls.action_call(workflow_id, "resume"))

    def retry_step(self, workflow_id: str, step: str, *, item: int | None = None) -> WorkflowView:
        """Run a step again that stands as uncertain.

        Raises:
            ConflictError: The step is not one that can be run again.
        """
        return self._run(calls.step_call(workflow_id, step, "retry", item, None))

    def skip_step(
        self, workflow_id: str, step: str, *, item: int | None = None, value: Any = None
    ) -> WorkflowView:
        """Go on without a step that stands as uncertain, as if it had given `value`."""
        return self._run(calls.step_call(workflow_id, step, "skip", item, value))

    def workflow_events(self, workflow_id: str, *, after: int = 0) -> Generator[WorkflowEvent]:
        """Every committed transition as it comes, until the workflow has finished.

        A broken connection is opened again where it was, so no event is missed and none comes
        twice.

        Args:
            workflow_id: The workflow.
            after: Number of the last event that is known.
        """
        stream = calls.EventStream()
        while not stream.done:
            silent = time.monotonic()
            try:
                for event in self._events_once(workflow_id, after, stream):
                    silent, after = time.monotonic(), event.seq
                    yield event
            except _PASSING:
                if time.monotonic() - silent > self._session.timeout:
                    raise
            if not stream.done:
                time.sleep(calls.POLL_SECONDS)

    def wait_for_workflow(self, workflow_id: str, *, seconds: float | None = None) -> WorkflowView:
        """Wait until a workflow has finished, or until nothing goes on without its user.

        Raises:
            DeadlineExceededError: It has not after so many seconds.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            view = self.workflow(workflow_id)
            if view.status in FINISHED or view.status == "uncertain":
                return view
            if end is not None and time.monotonic() > end:
                raise _still_running(view, seconds)
            time.sleep(calls.poll_seconds(view.created_at))

    def _events_once(
        self, workflow_id: str, after: int, stream: calls.EventStream
    ) -> Generator[WorkflowEvent]:
        call = calls.events_call(workflow_id, after)
        try:
            with self._http.stream(**self._session.arguments(call)) as response:
                if response.is_error:
                    response.read()
                checked(response, call)
                reader = EventReader()
                for chunk in response.iter_bytes():
                    for data in reader.feed(chunk):
                        if (event := stream.feed(data)) is not None:
                            yield event
        except httpx.RequestError as error:
            raise self._session.translated(call, error) from error


class AsyncWorkflowMethods(AsyncConnection):
    """The same for asyncio."""

    async def submit_workflow(
        self,
        definition: Mapping[str, Any],
        inputs: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        priority: Priority | None = None,
        deadline_seconds: float | None = None,
    ) -> WorkflowView:
        """Start a workflow, as `Client.submit_workflow` does."""
        call = calls.submit_call(definition, inputs, key, priority, deadline_seconds)
        return await self._run(call)

    async def workflow(self, workflow_id: str, *, outputs: bool = False) -> WorkflowView:
        """One workflow with its steps."""
        return await self._run(calls.workflow_call(workflow_id, outputs))

    async def workflows(
        self,
        *,
        status: str | None = None,
        name: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[WorkflowView]:
        """Workflows, the newest first."""
        return await self._run(calls.workflows_call(status, name, limit, before))

    async def workflow_result(self, reference: str | Mapping[str, Any]) -> Any:
        """A result that is too large for the store, as `Client.workflow_result` gives it."""
        return await self._run(calls.result_call(reference))

    async def cancel_workflow(self, workflow_id: str) -> WorkflowView:
        """Stop what runs, and undo what has compensations."""
        return await self._run(calls.action_call(workflow_id, "cancel"))

    async def pause_workflow(self, workflow_id: str) -> WorkflowView:
        """Start no further step."""
        return await self._run(calls.action_call(workflow_id, "pause"))

    async def resume_workflow(self, workflow_id: str) -> WorkflowView:
        """Go on after a pause."""
        return await self._run(calls.action_call(workflow_id, "resume"))

    async def retry_step(
        self, workflow_id: str, step: str, *, item: int | None = None
    ) -> WorkflowView:
        """Run a step again that stands as uncertain."""
        return await self._run(calls.step_call(workflow_id, step, "retry", item, None))

    async def skip_step(
        self, workflow_id: str, step: str, *, item: int | None = None, value: Any = None
    ) -> WorkflowView:
        """Go on without a step that stands as uncertain."""
        return await self._run(calls.step_call(workflow_id, step, "skip", item, value))

    async def workflow_events(
        self, workflow_id: str, *, after: int = 0
    ) -> AsyncGenerator[WorkflowEvent]:
        """Every committed transition as it comes, as `Client.workflow_events` gives them."""
        stream = calls.EventStream()
        while not stream.done:
            silent = time.monotonic()
            try:
                async for event in self._events_once(workflow_id, after, stream):
                    silent, after = time.monotonic(), event.seq
                    yield event
            except _PASSING:
                if time.monotonic() - silent > self._session.timeout:
                    raise
            if not stream.done:
                await asyncio.sleep(calls.POLL_SECONDS)

    async def wait_for_workflow(
        self, workflow_id: str, *, seconds: float | None = None
    ) -> WorkflowView:
        """Wait until a workflow has finished, as `Client.wait_for_workflow` does."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            view = await self.workflow(workflow_id)
            if view.status in FINISHED or view.status == "uncertain":
                return view
            if end is not None and time.monotonic() > end:
                raise _still_running(view, seconds)
            await asyncio.sleep(
                min(calls.POLL_SECONDS, 0.05 + (time.time() - view.created_at) / 10)
            )

    async def _events_once(
        self, workflow_id: str, after: int, stream: calls.EventStream
    ) -> AsyncGenerator[WorkflowEvent]:
        call = calls.events_call(workflow_id, after)
        try:
            async with self._http.stream(**self._session.arguments(call)) as response:
                if response.is_error:
                    await response.aread()
                checked(response, call)
                reader = EventReader()
                async for chunk in response.aiter_bytes():
                    for data in reader.feed(chunk):
                        if (event := stream.feed(data)) is not None:
                            yield event
        except httpx.RequestError as error:
            raise self._session.translated(call, error) from error


def _still_running(view: WorkflowView, seconds: float | None) -> DeadlineExceededError:
    return DeadlineExceededError(
        f"workflow {view.id} is {view.status} after {seconds:g} s; it goes on: wait for it again"
    )
