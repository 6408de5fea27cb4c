"""`POST /v1/decisions` and `POST /v1/classify`: from bytes to `DecisionService` and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response

from ironcliw.schemas.decisions import (
    ClassifyRequest,
    DecisionRequest,
    DecisionResponse,
    LabelScore,
    ZeroShotResult,
)
from serve.form_errors import parse_form
from serve.gateway import Whole, WholeHandler
from serve.http_forms import ERRORS, body_schema, enter, served_headers
from serve.keys import Scope

if TYPE_CHECKING:
    from serve.service import Service


def add_decisions(app: FastAPI, service: Service) -> None:
    """Add both routes to the application."""
    decide = decision_handler(service)

    @app.post(
        "/v1/decisions",
        response_model=DecisionResponse,
        responses=ERRORS,
        openapi_extra=body_schema(DecisionRequest),
        tags=["inference"],
    )
    async def decisions(request: Request) -> Response:
        """Answers to questions about a text: is it so, which of these, how much."""
        status, headers, body = await decide(request.scope["state"], await request.body())
        return Response(body, status, headers, "application/json")

    @app.post(
        "/v1/classify",
        response_model=ZeroShotResult | list[ZeroShotResult] | list[LabelScore],
        responses=ERRORS,
        openapi_extra=body_schema(ClassifyRequest),
        tags=["inference"],
    )
    async def classify(request: Request) -> Response:
        """Labels and their scores, in the shape of Hugging Face's zero-shot classification."""
        key = enter(request, service, "/v1/classify", Scope.INFER)
        with service.gatekeeper.slot(key):
            wanted = parse_form(await request.body(), ClassifyRequest)
            body, served, cut = await service.decisions.classify(wanted, request.state.deadline)
        headers = served_headers(served)
        if cut:
            headers["x-ironcliw-truncated"] = str(cut)  # the shape of the answer has no place
        return Response(body, 200, headers, "application/json")


def decision_handler(service: Service) -> WholeHandler:
    """`POST /v1/decisions` from bytes to bytes."""

    async def answer(state: dict[str, Any], body: bytes) -> Whole:
        state["route"] = "/v1/decisions"
        key = service.gatekeeper.authenticate(state["headers"], Scope.INFER)
        with service.gatekeeper.slot(key):
            content, served = await service.decisions.decide_body(body, state["deadline"])
        return 200, served_headers(served), content

    return answer
