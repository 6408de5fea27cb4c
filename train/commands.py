"""`ironcliw train`, which is `python -m train` too."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ironcliw import console
from ironcliw.client import DEFAULT_CHAT_MODEL
from ironcliw.errors import SettingsError
from ironcliw.problems import what_is_wrong
from train.comparison.commands import evaluate
from train.export.commands import export, merge
from train.heads.cascade_command import cascade
from train.heads.command import head
from train.publish_command import publish
from train.run_commands import dpo, embed, sft
from train.sweep.commands import tune

if TYPE_CHECKING:
    from train.data.check import ShownRow
    from train.data.options import DataOptions

train = typer.Typer(help="Train models on your own data.", no_args_is_help=True)
data = typer.Typer(help="Look at training data before a run does.", no_args_is_help=True)
train.add_typer(data, name="data")
train.command("sft")(sft)
train.command("dpo")(dpo)
train.command("embed")(embed)
train.command("head")(head)
train.command("cascade")(cascade)
train.command("tune")(tune)
train.command("eval")(evaluate)
train.command("merge")(merge)
train.command("export")(export)
train.command("publish")(publish)


@train.callback()
def _train() -> None:
    """Train models on your own data."""


@data.callback()
def _data() -> None:
    """Look at training data before a run does."""


@data.command("check")
def check_data(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Files, folders, patterns or URIs.")
    ],
    model: Annotated[
        str, typer.Option(help="A model of the catalogue, a folder or a GGUF file.")
    ] = DEFAULT_CHAT_MODEL,
    form: Annotated[
        str,
        typer.Option("--format", help="auto, or a form of train/README.md, such as messages."),
    ] = "auto",
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=THEIRS", help="E.g. prompt=question; repeatable."),
    ] = None,
    max_length: Annotated[int, typer.Option(help="Most tokens of a row.")] = 1024,
    over_length: Annotated[str, typer.Option(help="drop, truncate or error.")] = "drop",
    train_on: Annotated[str, typer.Option(help="all of the assistant's turns, or last.")] = "all",
    deduplicate: Annotated[
        bool, typer.Option("--deduplicate", help="Leave duplicates out.")
    ] = False,
    eval_share: Annotated[float, typer.Option(help="Share of the rows to hold out.")] = 0.0,
    plain_text: Annotated[
        bool, typer.Option("--plain-text", help="Prompt and completion without a template.")
    ] = False,
    chat_template: Annotated[
        str | None, typer.Option(metavar="FILE", help="In place of the model's own.")
    ] = None,
    row: Annotated[int, typer.Option(help="Which row to show, counted from 0.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count rows and tokens, name every problem, and show one row as the model reads it.

    Exits with 1 where a run would refuse the data.
    """
    options = _options(
        train=files,
        format=form,
        columns=_columns(column or []),
        max_length=max_length,
        over_length=over_length,
        train_on=train_on,
        deduplicate=deduplicate,
        eval_share=eval_share,
        plain_text=plain_text,
        chat_template=chat_template,
    )
    settings = console.command_settings()
    from train.data.check import facts, show_row
    from train.data.read import examine
    from train.embedding.tokenizer import load_tokenizer, within_window

    tokenizer = load_tokenizer(model, settings, options.chat_template)
    options = within_window(options, tokenizer)
    found = examine(options, tokenizer)
    counts = facts(found, options)
    shown = show_row(found.train, row, tokenizer) if len(found.train) else None
    problems = found.report.problems
    if as_json:
        row_facts = None if shown is None else dataclasses.asdict(shown)
        listed = [dataclasses.asdict(problem) for problem in problems]
        console.write_json({**counts, "problems": listed, "row": row_facts})
    else:
        for problem in problems:
            console.write_line(str(problem) if problem.stops else f"{problem} (does not stop)")
        _write(counts, shown)
    if found.report.stopping or shown is None:
        raise typer.Exit(console.EXIT_FAILED)


def _write(counts: dict[str, Any], shown: ShownRow | None) -> None:
    from rich.console import Console

    from train.data.check import table

    console.write_table(("", ""), table(counts))
    if shown is None:
        console.write_line("no row would be trained on")
        return
    console.write_line(f"\n{shown.source}, {shown.told}:")
    screen = Console(file=sys.stdout)
    if screen.is_terminal and not screen.no_color:
        screen.print(shown.coloured())
    else:
        console.write_line(shown.marked())


def _columns(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        ours, sign, theirs = pair.partition("=")
        if not (ours and sign and theirs):
            raise typer.BadParameter(f"--column is {pair!r}; write OURS=THEIRS, as prompt=question")
        found[ours] = theirs
    return found


def _options(**values: Any) -> DataOptions:
    """The options, with what is wrong in them in the words of the command line."""
    from pydantic import ValidationError

    from train.data.options import DataOptions

    try:
        return DataOptions.model_validate(values)
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, item['loc'])) or 'data'} is {item['input']!r:.80}: "
            f"{what_is_wrong(item)}"
            if item["loc"]
            else what_is_wrong(item)
            for item in error.errors()
        ]
        raise SettingsError("; ".join(wrong)) from error
