"""The calls of `/v1/workflows`, for both clients."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote, urlencode

from ironcliw._events import END_OF_STREAM
from ironcliw._transport import Answer, Call, error_from_body, given_fields, read_json
from ironcliw.errors import IroncliwError, RequestError
from ironcliw.schemas.base import Priority
from ironcliw.schemas.workflows import WorkflowEvent, WorkflowList, WorkflowView

Action = Literal["cancel", "pause", "resume"]
StepAction = Literal["retry", "skip"]
_ADDRESS = re.compile(r"result:([A-Za-z0-9_-]{1,63})/([0-9a-f]{64})")
POLL_SECONDS = 1.0
"""After a stream of events has ended before the workflow did, it is opened again so much later."""


def submit_call(
    definition: Mapping[str, Any],
    inputs: Mapping[str, Any] | None,
    key: str | None,
    priority: Priority | None,
    deadline_seconds: float | None,
) -> Call[WorkflowView]:
    """`POST /v1/workflows`; with a key of its own, so that it may be sent twice."""
    fields = {"priority": priority, "deadline_seconds": deadline_seconds}
    body = {
        **given_fields(fields),
        "definition": dict(definition),
        "inputs": dict(inputs or {}),
        "key": key or f"client-{uuid.uuid4().hex}",
    }
    return Call("POST", "/v1/workflows", _view, body)


def workflow_call(workflow_id: str, outputs: bool) -> Call[WorkflowView]:
    """`GET /v1/workflows/{id}`."""
    query = "?outputs=true" if outputs else ""
    return Call("GET", workflow_path(workflow_id) + query, _view)


def workflows_call(
    status: str | None, name: str | None, limit: int, before: str | None
) -> Call[list[WorkflowView]]:
    """`GET /v1/workflows`."""
    fields = given_fields({"status": status, "name": name, "limit": limit, "before": before})
    return Call("GET", f"/v1/workflows?{urlencode(fields)}", _views)


def result_call(reference: str | Mapping[str, Any]) -> Call[Any]:
    """`GET /v1/workflows/{id}/results/{digest}`, of a result by reference.

    Args:
        reference: `result:ID/DIGEST`, or the `{"$reference": ...}` that stands for the result.

    Raises:
        RequestError: it is neither.
    """
    address = reference if isinstance(reference, str) else reference.get("$reference", "")
    parts = _ADDRESS.fullmatch(str(address))
    if parts is None:
        raise RequestError(
            f"{reference!r:.200} is no result by reference; give what an output holds in its "
            "place, or the address in it: result:WORKFLOW/DIGEST",
            param="reference",
        )
    path = f"{workflow_path(parts[1])}/results/{parts[2]}"
    return Call("GET", path, lambda answer: read_json(answer.content, lambda value: value))


def action_call(workflow_id: str, action: Action) -> Call[WorkflowView]:
    """`POST /v1/workflows/{id}/cancel`, `pause` or `resume`; twice is as good as once."""
    return Call("POST", f"{workflow_path(workflow_id)}/{action}", _view, {})


def step_call(
    workflow_id: str, step: str, action: StepAction, item: int | None, value: Any
) -> Call[WorkflowView]:
    """`POST /v1/workflows/{id}/steps/{step}/retry` or `skip`."""
    body: dict[str, Any] = {} if item is None else {"item": item}
    if action == "skip":
        body["value"] = value
    path = f"{workflow_path(workflow_id)}/steps/{quote(step, safe='')}/{action}"
    return Call("POST", path, _view, body, idempotent=False)


def events_call(workflow_id: str, after: int) -> Call[EventStream]:
    """`GET /v1/workflows/{id}/events`, from one number on."""
    path = f"{workflow_path(workflow_id)}/events?{urlencode({'after': after})}"
    return Call("GET", path, lambda answer: EventStream(), stream=True)


class EventStream:
    """Reads the data of events; no I/O.

    Attributes:
        done: The workflow has finished, and this was its last event.
    """

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: str) -> WorkflowEvent | None:
        """One event; None for the end.

        Raises:
            IroncliwError: it is an error: the stream cannot go on.
        """
        if data == END_OF_STREAM:
            self.done = True
            return None
        event = read_json(data, _event)
        if isinstance(event, IroncliwError):
            raise event
        return event


def poll_seconds(created_at: float) -> float:
    """How long to wait before asking again: the older a workflow is, the longer it may take."""
    return min(POLL_SECONDS, 0.05 + max(0.0, time.time() - created_at) / 10)


def workflow_path(workflow_id: str) -> str:
    """Path of a workflow.

    Raises:
        RequestError: the id is empty.
    """
    if not workflow_id:
        raise RequestError(
            "the workflow's id is empty; give one of `ironcliw workflow list`", param="id"
        )
    return "/v1/workflows/" + quote(workflow_id, safe="")


def _event(document: Any) -> WorkflowEvent | IroncliwError:
    error = document.get("error")
    if isinstance(error, dict) and "seq" not in document:
        return error_from_body(error, 500, {})
    return WorkflowEvent.model_validate(document)


def _view(answer: Answer) -> WorkflowView:
    return read_json(answer.content, WorkflowView.model_validate)


def _views(answer: Answer) -> list[WorkflowView]:
    return read_json(answer.content, WorkflowList.model_validate).data
