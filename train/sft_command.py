"""`ironcliw train sft`: a run from a configuration file, with its progress and its result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ironcliw import console
from ironcliw.errors import DataError, IroncliwError, SettingsError

if TYPE_CHECKING:
    from train.trainer import TrainingResult


def sft(
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="YAML, as those in train/configs.")
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="E.g. data.max_length=512; repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the run; the name of an earlier one resumes it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model of the catalogue, a folder or a GGUF file.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="What to train on, in place of data.train; repeatable."),
    ] = None,
    allow_inexact: Annotated[
        bool,
        typer.Option(
            "--allow-inexact", help="Resume where the numbers cannot be the same; the log says so."
        ),
    ] = False,
    publish: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Publish the adapter, if it is not worse than its base."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fine-tune a model on conversations or on prompts with their answers.

    The same command again resumes a run that was interrupted, and shows the result of one that is
    finished.
    """
    wanted = _changes(changes or [])
    named = {"name": name, "model_name": model, "data.train": data, "publish": publish}
    wanted.update({key: value for key, value in named.items() if value})
    if allow_inexact:
        wanted["allow_inexact"] = True
    settings = console.command_settings()
    from train.config import read_config
    from train.sft_progress import shown_progress
    from train.trainer import Trainer

    try:
        with shown_progress() as report:
            made = read_config(config, wanted)
            result = Trainer(made, settings, report).train()
    except (DataError, SettingsError) as error:
        _tell_line_by_line(error, as_json=as_json)
        raise
    if as_json:
        console.write_json(dataclasses.asdict(result))
    else:
        _write(result)
    _end(result, made.publish)


def _changes(pairs: list[str]) -> dict[str, Any]:
    """Dotted keys and their values, which are read as YAML."""
    import yaml

    found = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not (key and sign):
            raise typer.BadParameter(
                f"--set is {pair!r}; write KEY=VALUE, as data.max_length=512", param_hint="--set"
            )
        try:
            found[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise typer.BadParameter(
                f"--set {key}: {text!r} is no YAML; put a text in quotes", param_hint="--set"
            ) from error
    return found


def _tell_line_by_line(error: IroncliwError, *, as_json: bool) -> None:
    """Write a message of several lines as it is; others are `main`'s."""
    if as_json or "\n" not in error.message:
        return
    console.note(f"error: {error.message}")
    raise typer.Exit(console.exit_code(error)) from error


def _write(result: TrainingResult) -> None:
    from train.evaluation.report import table

    console.write_table(
        ("", ""),
        [
            ("run", result.name),
            ("folder", result.uri),
            ("result", result.result),
            ("optimizer steps", str(result.steps)),
            ("hash of the log", result.chain),
        ],
    )
    if result.evaluation:
        console.write_table(
            ("held-out rows", "before", "after"), table(result.before, result.evaluation)
        )
    if result.published is not None:
        console.write_line(f"published as {result.published}, version {result.version}")


def _end(result: TrainingResult, wanted: str | None) -> None:
    """Exits with 1 where the gate kept back what was to be published."""
    if wanted is not None and result.published is None:
        why = result.gate.words if result.gate else "nothing was measured"
        console.note(
            f"error: not published as {wanted!r}, since it is worse than its base: {why}; the "
            f"adapter stays in {result.result}"
        )
        raise typer.Exit(console.EXIT_FAILED)
