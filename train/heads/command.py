"""`ironcliw train head`: a classifier over an embedding model's vectors, fitted and calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ironcliw import console
from ironcliw.client import DEFAULT_MODEL
from ironcliw.errors import SettingsError
from ironcliw.head_record import CONFIG_FILE

_ANSWERS = "answers.jsonl"

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
    """Fit a head for decisions: a classifier over vectors, with honest probabilities.

    A teacher's answers are kept in the folder: the same command goes on where it was broken off.
    """
    _check_target(to)
    settings = console.command_settings()
    from train.heads.make import HeadPlan, make_head, text_vectors
    from train.heads.publishing import check_publishing, publish_head

    if publish is not None:
        check_publishing(model, publish, settings)
    names = tuple(name.strip() for name in labels.split(",") if name.strip()) if labels else ()
    plan = HeadPlan(model, tuple(data), tuple(measured or ()), names)
    asked = None if teacher is None else _teacher(teacher, to / _ANSWERS)
    vectors = text_vectors(model, settings)
    fitted = make_head(plan, vectors, asked)
    to.mkdir(parents=True, exist_ok=True)
    fitted.save(to, model, vectors.digest)
    record = None
    if publish is not None:
        record = publish_head(to, publish, settings, force=force)
    _show(fitted, to, record, as_json=as_json)


def _check_target(to: Path) -> None:
    if to.exists() and not to.is_dir():
        raise SettingsError(f"--to is {to}, which is a file; name a new folder")
    held = {each.name for each in to.iterdir()} if to.exists() else set()
    if CONFIG_FILE in held:
        raise SettingsError(
            f"--to is {to}, which is not empty: it holds a head, which `ironcliw train publish "
            f"{to} NAME` publishes; name a new folder to fit another one"
        )
    # what a teacher answered before this was broken off is not asked for again
    if held - {_ANSWERS}:
        raise SettingsError(f"--to is {to}, which is not empty; name a new folder")


def _teacher(model: str, file: Path) -> Teacher:
    from ironcliw.client import Client
    from train.heads.kept_answers import KeptAnswers
    from train.heads.teacher import ask

    def answers(texts: Sequence[str], labels: Sequence[str]) -> Any:
        kept = KeptAnswers(file, model, labels)
        with Client() as client, console.progress("asking the teacher", len(texts)) as update:
            return ask(client, model, texts, labels, update, kept)

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
