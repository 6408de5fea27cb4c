"""`ironcliw models`, `ironcliw embed` and `ironcliw keys`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ironcliw import console
from ironcliw.catalog import Catalog
from ironcliw.client import DEFAULT_MODEL, Client, Embeddings, LoadProgress
from ironcliw.errors import NotRunningError
from ironcliw.schemas import Model
from serve.alias_commands import list_aliases, promote_alias, roll_back_alias
from serve.texts import read_texts, replacing

if TYPE_CHECKING:
    from serve.keys import ApiKey, ApiKeys

BATCH = 256  # texts a request: the most of one engine batch
models = typer.Typer(help="List, load and unload models.")
embed = typer.Typer()
keys = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@models.callback(invoke_without_command=True)
def list_models(context: typer.Context, as_json: Json = False) -> None:
    """List, load and unload models."""
    if context.invoked_subcommand is not None:
        return
    settings = console.command_settings()
    try:
        with Client() as client:
            found = client.models()
    except NotRunningError:
        if settings.client.base_url:
            raise
        console.note("no server runs, so this is the catalogue; start one with `ironcliw up`")
        found = _catalogue(Catalog.of(settings))
    if as_json:
        console.write_json([model.model_dump() for model in found])
        return
    columns = ("id", "task", "size", "state", "device", "precision", "loaded", "uses", "avg ms")
    console.write_table((*columns, "pinned"), (_row(model) for model in found))


@models.command("load")
def load_model(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="A model of `ironcliw models`.")],
    pin: Annotated[bool, typer.Option("--pin", help="Never evict it.")] = False,
    ttl: Annotated[
        float | None, typer.Option(help="Unload it after this many idle seconds.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Load a model and wait until it is ready."""
    console.command_settings()
    with Client() as client, console.progress(f"loading {model_id}", 1.0) as update:

        def show(step: LoadProgress) -> None:
            update(step.fraction, f"{step.state} {step.model}")

        model = client.load_model(model_id, pin=pin, ttl_seconds=ttl, progress=show)
    if as_json:
        console.write_json(model.model_dump())
        return
    facts = (model.device, model.precision, console.held(model.resident_bytes, model.kv_bytes))
    known = ", ".join(fact for fact in facts if fact)
    console.write_line(f"{model.id} is {model.state}" + (f" ({known})" if known else ""))
    if model.precision_reason:
        console.note(model.precision_reason)


@models.command("unload")
def unload_model(
    model_id: Annotated[str, typer.Argument(metavar="ID", help="A loaded model.")],
    force: Annotated[bool, typer.Option("--force", help="Although it is pinned.")] = False,
    as_json: Json = False,
) -> None:
    """Unload a model and free its memory."""
    console.command_settings()
    with Client() as client:
        model = client.unload_model(model_id, force=force)
    if as_json:
        console.write_json(model.model_dump())
    else:
        console.write_line(f"{model.id} is {model.state}")


models.command("aliases")(list_aliases)
models.command("promote")(promote_alias)
models.command("rollback")(roll_back_alias)


@embed.command()
def embed_texts(
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="Texts.")] = None,
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="One text a line; `-`: standard input.")
    ] = None,
    model: Annotated[str, typer.Option(help="An embedding model.")] = DEFAULT_MODEL,
    dimensions: Annotated[
        int | None, typer.Option(min=1, help="Keep the first N dimensions.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Write JSON lines there.")
    ] = None,
) -> None:
    """Embed texts: the first numbers and the norm of each, or all of it as JSON lines."""
    if bool(texts) == (file is not None):
        raise typer.BadParameter("give texts, or --file FILE, and not both")
    console.command_settings()
    wanted = texts or read_texts(str(file))
    batches = _embed_in_batches(wanted, model, dimensions)
    if out is not None:
        with replacing(out) as stream:
            for text, vector in batches:
                stream.write(_json_line(text, vector) + "\n")
        console.note(f"{len(wanted)} vectors are in {out}")
        return
    for text, vector in batches:
        console.write_line(_json_line(text, vector) if as_json else _short_line(text, vector))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="A name of your choice.")],
    scope: Annotated[list[str], typer.Option(help="infer, workflow or admin; repeatable.")],
    max_concurrency: Annotated[
        int | None, typer.Option(help="Requests at once; unset: the server's limit.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Create an API key and print its secret, once."""
    key, secret = _api_keys().create(name, scope, max_concurrency)
    if as_json:
        console.write_json({**_document(key), "secret": secret})
        return
    console.note("this is the only time that the secret is shown:")
    console.write_line(secret)


@keys.command("list")
def list_keys(as_json: Json = False) -> None:
    """List the API keys, the revoked ones too."""
    found = [_document(key) for key in _api_keys().list()]
    if as_json:
        console.write_json(found)
        return
    columns = ("id", "name", "scopes", "max_concurrency", "created_at", "last_used_at")
    rows = [
        (*(_cell(key[column]) for column in columns), _cell(key["revoked_at"])) for key in found
    ]
    console.write_table((*columns, "revoked_at"), rows)


@keys.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(metavar="NAME|ID", help="A key of `keys list`.")],
    as_json: Json = False,
) -> None:
    """Revoke an API key; servers stop accepting it within seconds."""
    key = _api_keys().revoke(name)
    if as_json:
        console.write_json(_document(key))
    else:
        console.write_line(f"{key.name} ({key.prefix}) is revoked")


def _catalogue(catalog: Catalog) -> list[Model]:
    """The catalogue in the form that a server answers."""
    fields = ("id", "owned_by", "task", "bytes", "dimensions", "context", "licence")
    rows = []
    for card in catalog.values():
        known = {name: getattr(card, "owner" if name == "owned_by" else name) for name in fields}
        rows.append(Model(**known, created=0, available=card.source is not None, state="absent"))
    return rows


def _row(model: Model) -> tuple[object, ...]:
    state = model.state if model.available or model.state != "absent" else "no source"
    size = console.megabytes(model.bytes)
    loaded = console.held(model.resident_bytes, model.kv_bytes)
    precision = console.precision_in_use(model.precision, model.precision_reason)
    where = (model.device, precision, loaded)
    return (model.id, model.task, size, state, *where, model.uses, model.average_ms, model.pinned)


def _embed_in_batches(
    texts: list[str], model: str, dimensions: int | None
) -> Iterator[tuple[str, list[float]]]:
    """Each text with its vector; what the user should know goes to standard error."""
    cut = 0
    with Client() as client, console.progress("embedding", len(texts)) as update:
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            answer = client.embed(batch, model=model, dimensions=dimensions)
            cut += len(answer.truncated)
            _warn_if_degraded(answer)
            yield from zip(batch, answer.vectors, strict=True)
            update(start + len(batch))
    if cut:
        console.note(f"{cut} texts were longer than the model's window and were cut")


def _warn_if_degraded(answer: Embeddings) -> None:
    if answer.served.degraded:
        console.note(f"degraded: {answer.served.degraded}")


def _json_line(text: str, vector: list[float]) -> str:
    return json.dumps({"text": text, "embedding": vector})


def _short_line(text: str, vector: list[float]) -> str:
    numbers = " ".join(f"{number:8.4f}" for number in vector[:4])
    shown = text if len(text) <= 40 else text[:37] + "..."
    norm = math.hypot(*vector)
    return f"{numbers} ...  {len(vector)} numbers, norm {norm:.4f}  {shown}"


def _api_keys() -> ApiKeys:
    """The keys of the state store; imported here, since SQLAlchemy takes a while to load."""
    from ironcliw.store import Store
    from serve.keys import ApiKeys

    store = Store(console.command_settings().store_url)
    store.migrate()
    return ApiKeys(store)


def _document(key: ApiKey) -> dict[str, Any]:
    return {**dataclasses.asdict(key), "scopes": sorted(key.scopes)}


def _cell(value: Any) -> object:
    if isinstance(value, list):
        return " ".join(value)
    return value.isoformat(" ", "seconds") if hasattr(value, "isoformat") else value
