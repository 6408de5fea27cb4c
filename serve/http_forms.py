"""Small parts that every route uses: enter, parse a body, say what was wrong, document, answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, ValidationError

from ironcliw.errors import RequestError
from ironcliw.schemas import EmbeddingRequest, ErrorResponse
from ironcliw.schemas.generation import CompletionRequest
from serve.embeddings import Served
from serve.form_errors import BRANCHES, telling
from serve.keys import ApiKey, Scope

if TYPE_CHECKING:
    from serve.service import Service

BodyT = TypeVar("BodyT", bound=BaseModel)

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorResponse}
    for code in (400, 401, 403, 404, 408, 409, 413, 429, 500, 501, 503)
}


_TEXTS_OR_TOKENS = frozenset({(EmbeddingRequest, "input"), (CompletionRequest, "prompt")})


def enter(request: Request, service: Service, route: str, scope: Scope) -> ApiKey | None:
    """Name the route for the metrics and check the key.

    Raises:
        AuthenticationError, PermissionDeniedError: see `serve.access.Gatekeeper`.
    """
    request.state.route = route
    return service.gatekeeper.authenticate(request.state.headers, scope)


async def parse(request: Request, form: type[BodyT], *, optional: bool = False) -> BodyT:
    """The request's body; with `optional` no body is an empty object.

    Raises:
        RequestError: it is not of that form; `param` names the field.
    """
    body = await request.body()
    return parse_bytes(b"{}" if not body and optional else body, form)


def parse_bytes(body: bytes, form: type[BodyT]) -> BodyT:
    """As `parse`, from bytes."""
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        raise explain(error, form) from None


def explain(error: ValidationError, form: type[BaseModel]) -> RequestError:
    """What to tell the client: the first fault, its field, what was given and what is allowed."""
    first = telling(error.errors(include_url=False, include_context=False))
    if first["type"] == "json_invalid":
        return RequestError(f"the body is not valid JSON in UTF-8: {first['msg']}", code="bad_json")
    field = _path(first["loc"])
    if first["type"] == "extra_forbidden":
        known = f"; known fields: {', '.join(form.model_fields)}" if len(first["loc"]) == 1 else ""
        return RequestError(f"unknown field {field!r}{known}", param=field, code="unknown_field")
    if first["type"] == "missing":
        return RequestError(f"the field {field!r} is required", param=field, code="missing_field")
    if first["loc"] and (form, first["loc"][0]) in _TEXTS_OR_TOKENS:
        name = str(first["loc"][0])
        return RequestError(
            f"{name} must be a string, a list of strings, a list of token ids, or a list of lists "
            f"of token ids; given: {_short(first['input'])}",
            param=name,
        )
    return RequestError(
        f"{field or 'the body'}: {first['msg']}; given: {_short(first['input'])}", param=field
    )


def _path(parts: Sequence[int | str]) -> str | None:
    """`messages[0].role`, as OpenAI's own errors name a field."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in BRANCHES:
            path += f".{part}" if path else part
    return path or None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def served_headers(served: Served) -> dict[str, str]:
    """The headers that say who answered."""
    headers = {
        "x-ironcliw-model": served.model,
        "x-ironcliw-variant": served.variant,
        "x-ironcliw-node": served.node,
        "x-ironcliw-degraded": served.degraded or "none",
    }
    if served.cached:
        headers["x-ironcliw-cache"] = "hit"
    return headers


async def sse(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """Server-sent events of JSON objects, with the end that OpenAI's streams have."""
    async for event in events:
        yield b"data: " + orjson.dumps(event) + b"\n\n"
    yield b"data: [DONE]\n\n"


def json_response(value: Any) -> Response:
    """200 with JSON."""
    return Response(orjson.dumps(value), media_type="application/json")


def body_schema(form: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """`openapi_extra` of a route that parses its body itself."""
    schema = form.model_json_schema()
    return {
        "requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}
    }
