"""The HTTP routes: thin, from bytes to `Service` and back to bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

import ironcliw
from ironcliw.errors import (
    IroncliwError,
    MethodNotAllowedError,
    NotFoundError,
    RequestError,
    UnsupportedError,
)
from ironcliw.schemas import (
    EmbeddingRequest,
    EmbeddingResponse,
    ErrorResponse,
    Health,
    LoadRequest,
    Model,
    ModelList,
    UnloadRequest,
)
from serve.embeddings import Served
from serve.gateway import Direct, internal_error
from serve.keys import ApiKey, Scope
from serve.service import Service

BodyT = TypeVar("BodyT", bound=BaseModel)

# Official client methods whose routes exist from a later release on: better a reason than a 404.
_NOT_YET = {
    "/v1/decisions": "decisions",
    "/v1/chat/completions": "chat completions",
    "/v1/completions": "completions",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorResponse}
    for code in (400, 401, 403, 404, 408, 409, 413, 429, 500, 501, 503)
}


def create_app(service: Service) -> FastAPI:
    """The application; `serve.gateway.Gateway` goes around it."""
    app = FastAPI(
        title="Ironcliw",
        version=ironcliw.__version__,
        description="Embeddings over the OpenAI API, on one Ray cluster.",
        redirect_slashes=False,
    )
    _add_inference(app, service)
    _add_models(app, service)
    _add_operations(app, service)

    _add_error_handlers(app)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(IroncliwError)
    async def ours(request: Request, error: IroncliwError) -> Response:
        body = orjson.dumps(error.body())
        return Response(body, error.status, error.headers(), "application/json")

    @app.exception_handler(HTTPException)
    async def starlette(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 404:
            known = ", ".join(sorted({getattr(route, "path", "") for route in app.routes} - {""}))
            return await ours(request, NotFoundError(f"no route {path}; known routes: {known}"))
        if error.status_code == 405:
            refusal = MethodNotAllowedError(f"{request.method} is not allowed on {path}")
            answer = await ours(request, refusal)
            answer.headers.update(error.headers or {})
            return answer
        return await ours(request, RequestError(str(error.detail)))

    # Starlette raises the error again after this answer, so that the gateway logs it
    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        return await ours(request, internal_error(request.state.request_id))


def direct_routes(service: Service) -> dict[tuple[str, str], Direct]:
    """The routes that the gateway calls without FastAPI in between."""
    return {("POST", "/v1/embeddings"): embeddings_handler(service)}


def embeddings_handler(service: Service) -> Direct:
    """`POST /v1/embeddings` from bytes to bytes."""

    async def answer(state: dict[str, Any], body: bytes) -> tuple[int, dict[str, str], bytes]:
        state["route"] = "/v1/embeddings"
        key = service.gatekeeper.authenticate(state["headers"], Scope.INFER)
        with service.gatekeeper.slot(key):
            wanted = _parse_bytes(body, EmbeddingRequest)
            content, result = await service.embeddings.answer(wanted, state["deadline"])
        headers = _served_headers(result.served)
        if result.truncated:
            headers["x-ironcliw-truncated"] = str(len(result.truncated))
        return 200, headers, content

    return answer


def _add_inference(app: FastAPI, service: Service) -> None:
    answer = embeddings_handler(service)

    @app.post(
        "/v1/embeddings",
        response_model=EmbeddingResponse,
        responses=_ERRORS,
        openapi_extra=_body(EmbeddingRequest),
        tags=["inference"],
    )
    async def embeddings(request: Request) -> Response:
        """Vectors of one text, several texts, or token arrays."""
        status, headers, body = await answer(request.scope["state"], await request.body())
        return Response(body, status, headers, "application/json")

    async def not_yet(request: Request) -> Response:
        _enter(request, service, request.url.path, Scope.INFER)
        what = _NOT_YET[request.url.path]
        raise UnsupportedError(
            f"{what} are not served by this release; it serves /v1/embeddings and /v1/models"
        )

    for path in _NOT_YET:
        app.add_api_route(path, not_yet, methods=["POST"], include_in_schema=False)


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", response_model=ModelList, responses=_ERRORS, tags=["models"])
    async def models(request: Request) -> Response:
        """Every model of the catalogue, with its state."""
        _enter(request, service, "/v1/models", Scope.INFER)
        return _json({"object": "list", "data": await service.models()})

    @app.get("/v1/models/{model_id}", response_model=Model, responses=_ERRORS, tags=["models"])
    async def model(request: Request, model_id: str) -> Response:
        """One model."""
        _enter(request, service, "/v1/models/{id}", Scope.INFER)
        card = service.catalog[model_id]
        return _json(next(row for row in await service.models() if row["id"] == card.id))

    @app.post(
        "/v1/models/{model_id}/load",
        response_model=Model,
        responses=_ERRORS,
        openapi_extra=_body(LoadRequest, required=False),
        tags=["models"],
    )
    async def load(request: Request, model_id: str) -> Response:
        """Load a model ahead of its first use; with `stream`, progress as server-sent events."""
        _enter(request, service, "/v1/models/{id}/load", Scope.ADMIN)
        wanted = await _parse(request, LoadRequest, optional=True)
        card = service.catalog[model_id]
        if wanted.stream:
            events = service.load_events(card.id, wanted.pin, wanted.ttl_seconds)
            return StreamingResponse(_sse(events), media_type="text/event-stream")
        await service.load(card.id, wanted.pin, wanted.ttl_seconds)
        return _json(next(row for row in await service.models() if row["id"] == card.id))

    @app.post(
        "/v1/models/{model_id}/unload",
        response_model=Model,
        responses=_ERRORS,
        openapi_extra=_body(UnloadRequest, required=False),
        tags=["models"],
    )
    async def unload(request: Request, model_id: str) -> Response:
        """Free a model's memory once no request uses it."""
        _enter(request, service, "/v1/models/{id}/unload", Scope.ADMIN)
        wanted = await _parse(request, UnloadRequest, optional=True)
        card = service.catalog[model_id]
        await service.unload(card.id, wanted.force)
        return _json(next(row for row in await service.models() if row["id"] == card.id))


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", response_model=Health, tags=["operations"])
    async def healthz(request: Request) -> Response:
        """The process answers."""
        request.state.route = "/healthz"
        return _json({"status": "ok"})

    @app.get("/readyz", response_model=Health, responses=_ERRORS, tags=["operations"])
    async def readyz(request: Request) -> Response:
        """A real forward pass of each pinned model."""
        request.state.route = "/readyz"
        return _json({"status": "ok", "detail": {"forward_ms": await service.ready()}})

    @app.get("/metrics", tags=["operations"], response_class=Response)
    async def metrics(request: Request) -> Response:
        """Prometheus text: everything that Ray's metrics agent of the head has."""
        _enter(request, service, "/metrics", Scope.INFER)
        if service.relay is None:
            raise UnsupportedError("this process has no metrics agent to relay")
        return Response(await service.relay(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/status", responses=_ERRORS, tags=["operations"])
    async def status(request: Request) -> Response:
        """Nodes, models, memory, queues, and what is degraded and why."""
        _enter(request, service, "/v1/status", Scope.INFER)
        return _json(await service.status())


def _enter(request: Request, service: Service, route: str, scope: Scope) -> ApiKey | None:
    request.state.route = route
    return service.gatekeeper.authenticate(request.state.headers, scope)


async def _parse(request: Request, form: type[BodyT], *, optional: bool = False) -> BodyT:
    body = await request.body()
    return _parse_bytes(b"{}" if not body and optional else body, form)


def _parse_bytes(body: bytes, form: type[BodyT]) -> BodyT:
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error, form) from None


def _explain(error: ValidationError, form: type[BaseModel]) -> RequestError:
    items = error.errors(include_url=False, include_context=False)
    first = items[0]
    if first["type"] == "json_invalid":
        return RequestError(f"the body is not valid JSON in UTF-8: {first['msg']}", code="bad_json")
    field = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        known = ", ".join(form.model_fields)
        return RequestError(
            f"unknown field {field!r}; known fields: {known}", param=field, code="unknown_field"
        )
    if first["type"] == "missing":
        return RequestError(f"the field {field!r} is required", param=field, code="missing_field")
    if field == "input":
        return RequestError(
            "input must be a string, a list of strings, a list of token ids, or a list of lists of "
            f"token ids; given: {_short(first['input'])}",
            param="input",
        )
    return RequestError(
        f"{field or 'the body'}: {first['msg']}; given: {_short(first['input'])}", param=field
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _served_headers(served: Served) -> dict[str, str]:
    headers = {
        "x-ironcliw-model": served.model,
        "x-ironcliw-variant": served.variant,
        "x-ironcliw-node": served.node,
        "x-ironcliw-degraded": served.degraded or "none",
    }
    if served.cached:
        headers["x-ironcliw-cache"] = "hit"
    return headers


async def _sse(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    async for event in events:
        yield b"data: " + orjson.dumps(event) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def _body(form: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    schema = form.model_json_schema()
    return {
        "requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}
    }
