"""Aliases as requests and operators meet them: checked against the catalogue."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from ironcliw.catalog import Catalog
from ironcliw.errors import ConflictError, RequestError
from serve.alias_split import request_key
from serve.aliases import ModelAlias, ModelAliases

FormT = TypeVar("FormT", bound=BaseModel)


class AliasService:
    """What an ingress does with aliases.

    Args:
        aliases: In the state store.
        catalog: A model's id always means that model, whatever aliases there are.
    """

    def __init__(self, aliases: ModelAliases, catalog: Catalog) -> None:
        self._aliases = aliases
        self._catalog = catalog
        self.refresh()

    def refresh(self) -> None:
        """See what was changed elsewhere; blocking.

        Raises:
            StoreError: the store cannot be read.
        """
        self._aliases.refresh()

    def applied(self, request: FormT) -> FormT:
        """The request with a model in the place of an alias."""
        model = getattr(request, "model", None)
        alias = None if model is None else self._aliases.get(model)
        if alias is None or model in self._catalog:
            return request
        return request.model_copy(update={"model": alias.model_for(request_key(request))})

    def named(self, model_id: str) -> str | None:
        """The alias of this name, where it is one."""
        alias = self._aliases.get(model_id)
        return None if alias is None or model_id in self._catalog else alias.alias

    def all(self) -> list[ModelAlias]:
        """By name."""
        return self._aliases.all()

    def rows(self, models: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """A row an alias, as of `GET /v1/models`: its target's, under its own name."""
        for alias in self._aliases.all():
            row = models.get(alias.target)
            if row is not None and alias.alias not in models:
                yield {**row, "id": alias.alias, "parent": alias.target}

    async def promote(self, alias: str, model_id: str, percent: float | None) -> ModelAlias:
        """Have an alias stand for a model, or try the model on a share of its requests.

        The version of a published adapter is kept: what is published later is not promoted by it.

        Raises:
            ModelNotFoundError: no such model.
            ConflictError: a model has this name.
            RequestError: the model is an alias, or see `ModelAliases.promote`.
        """
        if alias in self._catalog:
            raise ConflictError(
                f"{alias!r} is a model of the catalogue, and its id means that model; choose "
                "another name for the alias",
                param="alias",
            )
        if (other := self._aliases.get(model_id)) is not None and model_id not in self._catalog:
            raise RequestError(
                f"{model_id!r} is an alias of {other.target}; promote that model itself",
                param="model",
            )
        target = self._catalog[model_id].id
        return await asyncio.to_thread(self._aliases.promote, alias, target, percent)

    async def rollback(self, alias: str) -> ModelAlias:
        """Undo the last change; see `ModelAliases.rollback`."""
        return await asyncio.to_thread(self._aliases.rollback, alias)
