"""`ironcliw train head`: a classifier over an embedding model's vectors, fitted and calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ironcliw import console
from ironcliw.client import DEFAULT_MODEL
from ironcliw.errors import SettingsError

if TYPE_CHECKING:
    from ironcliw.adapters import PublishedAdapter
    from train.heads.head import FittedHead
    from train.heads.make import Teacher


def head(
    data: Annotated[
        list[str], typer.Option(metavar="FILE", help="Rows of text and label; repeatable.")
    ],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Where the head is written.")],
    model: Annotated[
        str, typer.Option(help="An embedding model of the catalogue, or a folder.")
    ] = DEFAULT_MODEL,
    measured: Annotated[
        list[str] | None,
        typer.Option("--eval", metavar="FILE", help="Rows to measure on; repeatable."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="To choose from, with commas; unset: those of the data.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="A model of the running service that says the labels of the texts."),
    ] = None,
    publish: Annotated[
        str | None, typer.Option(metavar="NAME", help="Publish it, to be asked for as MODEL:NAME.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Publish it although label names alone are better.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit a head for decisions: a classifier over vectors, with honest probabilities."""
    if to.exists() and any(to.iterdir()):
        raise SettingsError(f"--to is {to}, which is not empty; name a new folder")
    settings = console.command_settings()
    from train.heads.make import HeadPlan, make_head, publish_head, text_vectors

    names = tuple(name.strip() for name in labels.split(",") if name.strip()) if labels else ()
    plan = HeadPlan(model, tuple(data), tuple(measured or ()), names)
    asked = None if teacher is None else _teacher(teacher)
    vectors = text_vectors(model, settings)
    fitted = make_head(plan, vectors, asked)
    to.mkdir(parents=True, exist_ok=True)
    fitted.save(to, model, vectors.digest)
    record = None
    if publish is not None:
        record = publish_head(fitted, to, model, publish, settings, force=force)
    _show(fitted, to, record, as_json=as_json)


def _teacher(model: str) -> Teacher:
    from ironcliw.client import Client
    from train.heads.teacher import ask

    def answers(texts: Sequence[str], labels: Sequence[str]) -> Any:
        with Client() as client, console.progress("asking the teacher", len(texts)) as update:
            return ask(client, model, texts, labels, update)

    return answers


def _show(fitted: FittedHead, to: Path, record: PublishedAdapter | None, *, as_json: bool) -> None:
    facts = {
        "folder": str(to),
        "labels": len(fitted.labels),
        "temperature": fitted.temperature,
        "accuracy_of_names": fitted.names_accuracy,
        **fitted.measures,
    }
    if record is not None:
        facts |= {"model": record.model_id, "version": record.version}
    if as_json:
        console.write_json(facts)
        return
    rows = [
        (name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
        for name, value in facts.items()
    ]
    console.write_table(("", ""), rows)
