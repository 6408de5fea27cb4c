"""The HTTP routes of workflows: submit, look, steer, and follow their events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from ironcliw.errors import IroncliwError, NotFoundError, RequestError, UnsupportedError
from ironcliw.schemas.workflow_actions import RetryRequest, SkipRequest
from ironcliw.schemas.workflows import WorkflowList, WorkflowSubmission, WorkflowView
from serve.http_forms import ERRORS, body_schema, enter, json_response, parse
from serve.keys import Scope

if TYPE_CHECKING:
    from serve.keys import ApiKey
    from serve.service import Service

_LOCAL = "local"
_MOST_LISTED = 1000
_WAIT_SECONDS = 15.0
"""So long a stream is silent at most: then a comment shows that it lives."""
_PAGE = 500
_SPARE_SECONDS = 1.0
_PATH = "/v1/workflows/{workflow_id}"


class Workflows(Protocol):
    """The way to the orchestrator: `actors.control_link.ControlLink`."""

    async def workflows(self, method: str, *, repeatable: bool, **arguments: Any) -> Any:
        """Call a method of `actors.workflow_service.WorkflowService`."""
        ...

    async def status(self) -> dict[str, Any]:
        """How workflows and agents stand, and who leads."""
        ...


def add_workflows(app: FastAPI, service: Service) -> None:
    """Add the routes to the application."""
    _add_submission(app, service)
    _add_reading(app, service)
    _add_results(app, service)
    _add_actions(app, service)
    _add_events(app, service)


def _add_submission(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/workflows",
        response_model=WorkflowView,
        responses=ERRORS,
        openapi_extra=body_schema(WorkflowSubmission),
        tags=["workflows"],
    )
    async def submit(request: Request) -> Response:
        """Start a workflow, which is durable with this answer.

        Steps that ask a model need the scope `infer`, too, and training needs `admin`.
        """
        key = enter(request, service, "/v1/workflows", Scope.WORKFLOW)
        wanted = await parse(request, WorkflowSubmission, unique_keys=True)
        view = await _link(service).workflows(
            "submit",
            # without a key of its own a submission that was broken off could become two workflows
            repeatable=wanted.key is not None,
            owner=_LOCAL if key is None else key.name,
            scopes=None if key is None else sorted(key.scopes),
            **wanted.model_dump(),
        )
        return json_response(view)


def _add_reading(app: FastAPI, service: Service) -> None:
    @app.get("/v1/workflows", response_model=WorkflowList, responses=ERRORS, tags=["workflows"])
    async def workflows(
        request: Request,
        status: str | None = None,
        name: str | None = None,
        limit: str = "50",
        before: str | None = None,
    ) -> Response:
        """Workflows, the newest first."""
        key = enter(request, service, "/v1/workflows", Scope.WORKFLOW)
        rows = await _link(service).workflows(
            "list_",
            repeatable=True,
            owner=_sees(key),
            status=status,
            name=name,
            limit=_number("limit", limit, 1, _MOST_LISTED),
            before=before,
        )
        return json_response({"object": "list", "data": rows})

    @app.get(_PATH, response_model=WorkflowView, responses=ERRORS, tags=["workflows"])
    async def workflow(request: Request, workflow_id: str, outputs: str = "false") -> Response:
        """One workflow with its steps; with `outputs=true` what each of them gave."""
        key = enter(request, service, "/v1/workflows/{id}", Scope.WORKFLOW)
        view = await _link(service).workflows(
            "get",
            repeatable=True,
            workflow_id=workflow_id,
            owner=_sees(key),
            outputs=_flag("outputs", outputs),
        )
        return json_response(view)


def _add_results(app: FastAPI, service: Service) -> None:
    @app.get(
        _PATH + "/results/{digest}", responses=ERRORS, tags=["workflows"], response_class=Response
    )
    async def result(request: Request, workflow_id: str, digest: str) -> Response:
        """A result that is too large for the store, as JSON.

        Where a value reads `{"$reference": "result:ID/DIGEST"}`, this is what it stands for.
        """
        key = enter(request, service, "/v1/workflows/{id}/results/{digest}", Scope.WORKFLOW)
        content = await _link(service).workflows(
            "result", repeatable=True, workflow_id=workflow_id, owner=_sees(key), digest=digest
        )
        return Response(content, media_type="application/json")


def _add_actions(app: FastAPI, service: Service) -> None:
    @app.post(
        _PATH + "/{action}", response_model=WorkflowView, responses=ERRORS, tags=["workflows"]
    )
    async def act(request: Request, workflow_id: str, action: str) -> Response:
        """`cancel`, `pause` or `resume`; each is harmless to repeat."""
        key = enter(request, service, "/v1/workflows/{id}/{action}", Scope.WORKFLOW)
        if action not in {"cancel", "pause", "resume"}:
            raise NotFoundError(
                f"a workflow knows cancel, pause and resume, not {action!r}", param="action"
            )
        view = await _link(service).workflows(
            "act", repeatable=True, workflow_id=workflow_id, owner=_sees(key), action=action
        )
        return json_response(view)

    @app.post(
        _PATH + "/steps/{step}/retry",
        response_model=WorkflowView,
        responses=ERRORS,
        openapi_extra=body_schema(RetryRequest, required=False),
        tags=["workflows"],
    )
    async def retry(request: Request, workflow_id: str, step: str) -> Response:
        """Run a step again that stands as uncertain."""
        key = enter(request, service, "/v1/workflows/{id}/steps/{step}/retry", Scope.WORKFLOW)
        wanted = await parse(request, RetryRequest, optional=True, unique_keys=True)
        view = await _link(service).workflows(
            "retry",
            repeatable=False,
            workflow_id=workflow_id,
            owner=_sees(key),
            step=step,
            item=wanted.item,
        )
        return json_response(view)

    @app.post(
        _PATH + "/steps/{step}/skip",
        response_model=WorkflowView,
        responses=ERRORS,
        openapi_extra=body_schema(SkipRequest, required=False),
        tags=["workflows"],
    )
    async def skip(request: Request, workflow_id: str, step: str) -> Response:
        """Go on without a step that stands as uncertain, as if it had given `value`."""
        key = enter(request, service, "/v1/workflows/{id}/steps/{step}/skip", Scope.WORKFLOW)
        wanted = await parse(request, SkipRequest, optional=True, unique_keys=True)
        view = await _link(service).workflows(
            "skip",
            repeatable=False,
            workflow_id=workflow_id,
            owner=_sees(key),
            step=step,
            item=wanted.item,
            value=wanted.value,
        )
        return json_response(view)


def _add_events(app: FastAPI, service: Service) -> None:
    @app.get(_PATH + "/events", responses=ERRORS, tags=["workflows"], response_class=Response)
    async def events(request: Request, workflow_id: str, after: str = "0") -> Response:
        """Every committed transition as a server-sent event, from the beginning or from a number.

        The `Last-Event-ID` that a browser sends after a broken connection wins over `after`. The
        stream ends with `[DONE]` once the workflow has finished; one that ends without it is to be
        opened again.
        """
        key = enter(request, service, "/v1/workflows/{id}/events", Scope.WORKFLOW)
        given = request.headers.get("last-event-id")
        name, text = ("after", after) if given is None else ("last-event-id", given)
        seq = _number(name, text, 0, 2**31 - 1)
        arguments = {"workflow_id": workflow_id, "owner": _sees(key), "limit": _PAGE}
        link = _link(service)
        # before the status line is sent: what does not exist is a 404
        first = await link.workflows(
            "events", repeatable=True, after=seq, wait_seconds=0.0, **arguments
        )
        stream = _stream(link, arguments, seq, first, request.state.deadline)
        return StreamingResponse(
            stream, media_type="text/event-stream", headers={"cache-control": "no-store"}
        )


async def _stream(
    link: Workflows, arguments: dict[str, Any], seq: int, page: dict[str, Any], deadline: float
) -> AsyncIterator[bytes]:
    """Events as bytes, page after page, until the workflow has finished or the time is up."""
    while True:
        for event in page["events"]:
            seq = event["seq"]
            yield b"id: %d\nevent: %s\ndata: %s\n\n" % (
                seq,
                event["kind"].encode(),
                orjson.dumps(event),
            )
        if page["finished"]:
            yield b"data: [DONE]\n\n"
            return
        left = deadline - _SPARE_SECONDS - time.monotonic()
        if left <= 0:
            return
        if not page["events"]:
            yield b": still here\n\n"
        try:
            page = await link.workflows(
                "events",
                repeatable=True,
                after=seq,
                wait_seconds=min(left, _WAIT_SECONDS),
                **arguments,
            )
        except IroncliwError as error:
            yield b"event: error\ndata: " + orjson.dumps(error.body()) + b"\n\n"
            return


def _link(service: Service) -> Workflows:
    if service.workflows is None:
        raise UnsupportedError("this process has no orchestrator; start a head with `ironcliw up`")
    return service.workflows


def _sees(key: ApiKey | None) -> str | None:
    """Whose workflows a caller sees: its own; None for all, which the owner and admins see."""
    return None if key is None or key.allows(Scope.ADMIN) else key.name


def _number(name: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and least <= int(text[:12]) <= most):
        raise RequestError(
            f"{name} is {text[:80]!r}; give a whole number from {least} to {most}", param=name
        )
    return int(text)


def _flag(name: str, text: str) -> bool:
    if text not in {"true", "false"}:
        raise RequestError(f"{name} is {text[:80]!r}; give true or false", param=name)
    return text == "true"
