"""The HTTP routes of aliases: what they stand for, promotion and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response

from ironcliw.schemas import AliasList, ModelAlias, PromoteRequest
from serve.http_forms import ERRORS, body_schema, enter, json_response, parse
from serve.keys import Scope

if TYPE_CHECKING:
    from serve.aliases import ModelAlias as Alias
    from serve.service import Service


def add_aliases(app: FastAPI, service: Service) -> None:
    """Add the routes to the application."""

    @app.get("/v1/aliases", response_model=AliasList, responses=ERRORS, tags=["models"])
    async def aliases(request: Request) -> Response:
        """Every alias, what it stands for, and its canary."""
        enter(request, service, "/v1/aliases", Scope.INFER)
        rows = [_row(alias) for alias in service.aliases.all()]
        return json_response({"object": "list", "data": rows})

    @app.post(
        "/v1/aliases/{alias}/promote",
        response_model=ModelAlias,
        responses=ERRORS,
        openapi_extra=body_schema(PromoteRequest),
        tags=["models"],
    )
    async def promote(request: Request, alias: str) -> Response:
        """Have an alias stand for a model; with `percent`, for a share of its requests."""
        enter(request, service, "/v1/aliases/{alias}/promote", Scope.ADMIN)
        wanted = await parse(request, PromoteRequest)
        return json_response(
            _row(await service.aliases.promote(alias, wanted.model, wanted.percent))
        )

    @app.post(
        "/v1/aliases/{alias}/rollback",
        response_model=ModelAlias,
        responses=ERRORS,
        tags=["models"],
    )
    async def rollback(request: Request, alias: str) -> Response:
        """Undo the last change of an alias: end its canary, or go back to the model before."""
        enter(request, service, "/v1/aliases/{alias}/rollback", Scope.ADMIN)
        return json_response(_row(await service.aliases.rollback(alias)))


def _row(alias: Alias) -> dict[str, Any]:
    return {
        "id": alias.alias,
        "object": "alias",
        "created": int(alias.since.timestamp()),
        "model": alias.target,
        "canary": alias.canary,
        "percent": alias.percent,
    }
