"""`ironcliw train cascade`: the numbers of a cascade, from labelled texts and its served steps."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ironcliw import console
from ironcliw.errors import SettingsError

if TYPE_CHECKING:
    from ironcliw.settings import Settings
    from train.heads.cascade_make import FittedCascade
    from train.heads.teacher import Classifier


def cascade(
    name: Annotated[str, typer.Option("--name", help="Of the cascade, in requests.")],
    rows: Annotated[
        list[str], typer.Option(metavar="FILE", help="Rows of text and label; repeatable.")
    ],
    step: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="In order; unset: those of the settings; repeatable."),
    ] = None,
    loss: Annotated[
        float, typer.Option(help="Share of texts that may be wrong beyond the last step's.")
    ] = 0.01,
    labels: Annotated[
        str | None, typer.Option(help="To choose from, with commas; unset: those of the rows.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Answers are kept here; the same command goes on."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit a cascade's temperatures and confidences to labelled texts; its steps must be served.

    Half of the texts are fitted to, the table is of the others. Prints lines for ironcliw.toml.
    """
    if not 0 <= loss < 1:
        raise SettingsError(f"--loss is {loss:g}; a share of the texts is expected, from 0 to 1")
    settings = console.command_settings()
    from ironcliw.client import Client
    from train.heads.cascade_make import CascadePlan, make_cascade
    from train.heads.kept_answers import KeptAnswers
    from train.heads.teacher import ask

    steps = _steps(name, step, settings)
    names = tuple(each.strip() for each in labels.split(",") if each.strip()) if labels else ()
    with Client() as client:

        def say(model: str, texts: Sequence[str], options: Sequence[str]) -> Any:
            kept = None if to is None else KeptAnswers(_file(to, model), model, options)
            with console.progress(f"asking {model}", len(texts)) as update:
                return ask(client, model, texts, options, update, kept)

        def timed(model: str, texts: Sequence[str], options: Sequence[str]) -> float:
            return milliseconds_alone(client, model, texts, options)

        found = make_cascade(CascadePlan(name, steps, tuple(rows), names, loss), say, timed)
    _show(found, as_json=as_json)


def _steps(name: str, given: list[str] | None, settings: Settings) -> tuple[str, ...]:
    configured = settings.serve.cascades.get(name, ())
    steps = tuple(given or [each.model for each in configured])
    if len(steps) < 2:
        raise SettingsError(
            f"cascade {name} has {len(steps)} steps; give two or more with --step, the cheapest "
            f"first, or in ironcliw.toml as [[serve.cascades.{name}]]"
        )
    return steps


def _file(folder: Path, model: str) -> Path:
    kept = "".join(each if each.isalnum() or each in "._-" else "-" for each in model)
    return folder / f"{kept}.jsonl"


def milliseconds_alone(
    client: Classifier, model: str, texts: Sequence[str], labels: Sequence[str]
) -> float:
    """Median of the time that a text takes which was not asked before, and is asked alone.

    The service keeps vectors by content, and these texts have all been asked: what is behind each
    of them here makes it another.

    Args:
        client: Of a running service.
        model: That answers.
        texts: One at least.
        labels: To choose from.
    """
    seconds = []
    for text in texts:
        other = f"{text} {secrets.token_hex(2)}"
        began = time.perf_counter()
        client.classify(other, labels, model=model)
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


def _show(found: FittedCascade, *, as_json: bool) -> None:
    if as_json:
        console.write_json(found.as_json())
        return
    console.write_table(*found.table())
    for line in ("", found.summary(), "", *found.settings_lines()):
        console.write_line(line)
