"""The HTTP routes: thin, from bytes to `Service` and back to bytes."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
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
    Health,
    LoadRequest,
    Model,
    ModelList,
    UnloadRequest,
)
from serve.alias_routes import add_aliases
from serve.decision_routes import add_decisions, decision_handler
from serve.form_errors import parse_form
from serve.gateway import Direct, Whole, WholeHandler, internal_error
from serve.generation_routes import add_generation, chat_handler, completion_handler
from serve.http_forms import (
    ERRORS,
    body_schema,
    enter,
    json_response,
    parse,
    served_headers,
    sse,
)
from serve.keys import Scope
from serve.service import Service
from serve.workflow_routes import add_workflows


def create_app(service: Service) -> FastAPI:
    """The application; `serve.gateway.Gateway` goes around it."""
    app = FastAPI(
        title="Ironcliw",
        version=ironcliw.__version__,
        description="Embeddings, decisions and text over the OpenAI API, on one Ray cluster.",
        redirect_slashes=False,
    )
    _add_embeddings(app, service)
    add_decisions(app, service)
    add_generation(app, service)
    add_aliases(app, service)
    _add_models(app, service)
    _add_operations(app, service)
    add_workflows(app, service)

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
    return {
        ("POST", "/v1/embeddings"): embeddings_handler(service),
        ("POST", "/v1/decisions"): decision_handler(service),
        ("POST", "/v1/chat/completions"): chat_handler(service),
        ("POST", "/v1/completions"): completion_handler(service),
    }


def embeddings_handler(service: Service) -> WholeHandler:
    """`POST /v1/embeddings` from bytes to bytes."""

    async def answer(state: dict[str, Any], body: bytes) -> Whole:
        state["route"] = "/v1/embeddings"
        key = service.gatekeeper.authenticate(state["headers"], Scope.INFER)
        with service.gatekeeper.slot(key):
            wanted = service.aliases.applied(parse_form(body, EmbeddingRequest))
            content, result = await service.embeddings.answer(wanted, state["deadline"])
        headers = served_headers(result.served)
        if result.truncated:
            headers["x-ironcliw-truncated"] = str(len(result.truncated))
        return 200, headers, content

    return answer


def _add_embeddings(app: FastAPI, service: Service) -> None:
    answer = embeddings_handler(service)

    @app.post(
        "/v1/embeddings",
        response_model=EmbeddingResponse,
        responses=ERRORS,
        openapi_extra=body_schema(EmbeddingRequest),
        tags=["inference"],
    )
    async def embeddings(request: Request) -> Response:
        """Vectors of one text, several texts, or token arrays."""
        status, headers, body = await answer(request.scope["state"], await request.body())
        return Response(body, status, headers, "application/json")


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", response_model=ModelList, responses=ERRORS, tags=["models"])
    async def models(request: Request) -> Response:
        """Every model of the catalogue, with its state."""
        enter(request, service, "/v1/models", Scope.INFER)
        return json_response({"object": "list", "data": await service.models()})

    @app.get("/v1/models/{model_id}", response_model=Model, responses=ERRORS, tags=["models"])
    async def model(request: Request, model_id: str) -> Response:
        """One model."""
        enter(request, service, "/v1/models/{id}", Scope.INFER)
        return json_response(await service.model(model_id))

    @app.post(
        "/v1/models/{model_id}/load",
        response_model=Model,
        responses=ERRORS,
        openapi_extra=body_schema(LoadRequest, required=False),
        tags=["models"],
    )
    async def load(request: Request, model_id: str) -> Response:
        """Load a model ahead of its first use; with `stream`, progress as server-sent events."""
        enter(request, service, "/v1/models/{id}/load", Scope.ADMIN)
        wanted = await parse(request, LoadRequest, optional=True)
        card = service.catalog[model_id]
        if wanted.stream:
            events = service.load_events(card.id, wanted.pin, wanted.ttl_seconds)
            return StreamingResponse(sse(events), media_type="text/event-stream")
        await service.load(card.id, wanted.pin, wanted.ttl_seconds)
        return json_response(await service.model(card.id))

    @app.post(
        "/v1/models/{model_id}/unload",
        response_model=Model,
        responses=ERRORS,
        openapi_extra=body_schema(UnloadRequest, required=False),
        tags=["models"],
    )
    async def unload(request: Request, model_id: str) -> Response:
        """Free a model's memory once no request uses it."""
        enter(request, service, "/v1/models/{id}/unload", Scope.ADMIN)
        wanted = await parse(request, UnloadRequest, optional=True)
        card = service.catalog[model_id]
        await service.unload(card.id, wanted.force)
        return json_response(await service.model(card.id))


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", response_model=Health, tags=["operations"])
    async def healthz(request: Request) -> Response:
        """The process answers."""
        request.state.route = "/healthz"
        return json_response({"status": "ok"})

    @app.get("/readyz", response_model=Health, responses=ERRORS, tags=["operations"])
    async def readyz(request: Request) -> Response:
        """A real forward pass of each pinned model."""
        request.state.route = "/readyz"
        return json_response({"status": "ok", "detail": {"forward_ms": await service.ready()}})

    @app.get("/metrics", tags=["operations"], response_class=Response)
    async def metrics(request: Request) -> Response:
        """Prometheus text: everything that Ray's metrics agent of the head has."""
        enter(request, service, "/metrics", Scope.INFER)
        if service.relay is None:
            raise UnsupportedError("this process has no metrics agent to relay")
        return Response(await service.relay(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/status", responses=ERRORS, tags=["operations"])
    async def status(request: Request) -> Response:
        """Nodes, models, memory, queues, and what is degraded and why."""
        enter(request, service, "/v1/status", Scope.INFER)
        return json_response(await service.status())
