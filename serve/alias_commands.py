"""`ironcliw models aliases`, `promote` and `rollback`."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from ironcliw import console
from ironcliw.client import Client
from ironcliw.schemas import AliasList, ModelAlias

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Alias = Annotated[str, typer.Argument(metavar="ALIAS", help="A name that requests use.")]


def list_aliases(as_json: Json = False) -> None:
    """List aliases and the models that they stand for."""
    console.command_settings()
    with Client() as client:
        found = AliasList.model_validate(client.request("GET", "/v1/aliases"))
    if as_json:
        console.write_json([alias.model_dump() for alias in found.data])
        return
    rows = ((one.id, one.model, one.canary or "", _percent(one)) for one in found.data)
    console.write_table(("alias", "model", "canary", "share"), rows)


def promote_alias(
    alias: Alias,
    model_id: Annotated[str, typer.Argument(metavar="MODEL", help="Such as BASE:ADAPTER.")],
    percent: Annotated[
        float | None, typer.Option(help="Only this share of the requests goes to it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Have an alias stand for a model, or try the model on a share of its requests."""
    body: dict[str, object] = {"model": model_id}
    if percent is not None:
        body["percent"] = percent
    _change(alias, "promote", body, as_json=as_json)


def roll_back_alias(alias: Alias, as_json: Json = False) -> None:
    """Undo the last change of an alias: end its canary, or go back to the model before."""
    _change(alias, "rollback", {}, as_json=as_json)


def _change(alias: str, action: str, body: dict[str, object], *, as_json: bool) -> None:
    console.command_settings()
    path = f"/v1/aliases/{quote(alias, safe='')}/{action}"
    with Client() as client:
        found = ModelAlias.model_validate(client.request("POST", path, body))
    if as_json:
        console.write_json(found.model_dump())
        return
    share = f"; {_percent(found)} of the requests go to {found.canary}" if found.canary else ""
    console.write_line(f"{found.id} stands for {found.model}{share}")


def _percent(alias: ModelAlias) -> str:
    return "" if alias.percent is None else f"{alias.percent:g} %"
