"""Small parts that every route uses: enter, parse a body, document, answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from fastapi import Request, Response
from pydantic import BaseModel

from ironcliw.errors import RequestError
from ironcliw.schemas import ErrorResponse
from ironcliw.unique_keys import repeated_key
from serve.embeddings import Served
from serve.form_errors import parse_form
from serve.keys import ApiKey, Scope

if TYPE_CHECKING:
    from serve.service import Service

BodyT = TypeVar("BodyT", bound=BaseModel)

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorResponse}
    for code in (400, 401, 403, 404, 408, 409, 413, 429, 500, 501, 503)
}


def enter(request: Request, service: Service, route: str, scope: Scope) -> ApiKey | None:
    """Name the route for the metrics and check the key.

    Raises:
        AuthenticationError, PermissionDeniedError: see `serve.access.Gatekeeper`.
    """
    request.state.route = route
    return service.gatekeeper.authenticate(request.state.headers, scope)


async def parse(
    request: Request, form: type[BodyT], *, optional: bool = False, unique_keys: bool = False
) -> BodyT:
    """The request's body.

    Args:
        request: Its body is JSON.
        form: That it shall have.
        optional: No body is an empty object.
        unique_keys: A key that stands twice in an object is refused; else the last one counts. For
            what people write: it reads the body a second time.

    Raises:
        RequestError: it is not of that form; `param` names the field.
    """
    body = await request.body()
    if unique_keys and (path := repeated_key(body)) is not None:
        raise RequestError(
            f"the key {path!r} stands twice in its object; give it once, since one of both would "
            "be dropped in silence",
            param=path,
            code="duplicate_key",
        )
    return parse_form(b"{}" if not body and optional else body, form)


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
