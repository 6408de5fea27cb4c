"""`POST /v1/decisions` and `POST /v1/classify`: from bytes to `DecisionService` and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ValidationError

from ironcliw.errors import RequestError
from ironcliw.schemas.decisions import (
    ClassifyRequest,
    DecisionRequest,
    DecisionResponse,
    LabelScore,
    ZeroShotResult,
)
from serve.gateway import Direct
from serve.http_forms import ERRORS, body_schema, enter, served_headers
from serve.keys import Scope

if TYPE_CHECKING:
    from serve.service import Service

FormT = TypeVar("FormT", bound=BaseModel)

# pydantic puts the names of union members between those of the fields
_MEMBERS = frozenset(
    "predicate choice score message function_call custom_tool_call tool_output input_text "
    "output_text input_json input_image str bool".split()
)


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
            body, served = await service.decisions.classify(wanted, request.state.deadline)
        return Response(body, 200, served_headers(served), "application/json")


def decision_handler(service: Service) -> Direct:
    """`POST /v1/decisions` from bytes to bytes."""

    async def answer(state: dict[str, Any], body: bytes) -> tuple[int, dict[str, str], bytes]:
        state["route"] = "/v1/decisions"
        key = service.gatekeeper.authenticate(state["headers"], Scope.INFER)
        with service.gatekeeper.slot(key):
            wanted = parse_form(body, DecisionRequest)
            content, served = await service.decisions.decide(wanted, state["deadline"])
        return 200, served_headers(served), content

    return answer


def parse_form(body: bytes, form: type[FormT]) -> FormT:
    """The body as that form.

    Raises:
        RequestError: it is not; `param` is the path of the first fault, as `questions[0].choices`.
    """
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error, form) from None


def _explain(error: ValidationError, form: type[BaseModel]) -> RequestError:
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return RequestError(f"the body is not valid JSON in UTF-8: {first['msg']}", code="bad_json")
    field = _path(first["loc"])
    if first["type"] == "extra_forbidden":
        known = f"; known fields: {', '.join(form.model_fields)}" if field in first["loc"] else ""
        return RequestError(f"unknown field {field!r}{known}", param=field, code="unknown_field")
    if first["type"] == "missing":
        return RequestError(f"the field {field!r} is required", param=field, code="missing_field")
    given = repr(first["input"])
    shown = given if len(given) <= 80 else given[:77] + "..."
    return RequestError(f"{field or 'the body'}: {first['msg']}; given: {shown}", param=field)


def _path(location: tuple[int | str, ...]) -> str | None:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in _MEMBERS and "[" not in part:
            path += f".{part}" if path else part
    return path or None
