"""`ironcliw train sft`, `dpo` and `embed`: a run from a file, its progress, its result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ironcliw import console
from ironcliw.errors import SettingsError
from train.command_options import AsJson, Changes, Config, changed_keys, told_line_by_line

if TYPE_CHECKING:
    from train.config import TrainingConfig
    from train.trainer import TrainingResult


Name = Annotated[
    str | None, typer.Option(help="Of the run; the name of an earlier one resumes it.")
]
Model = Annotated[
    str | None, typer.Option(help="A model of the catalogue, a folder or a GGUF file.")
]
Data = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE", help="What to train on, in place of data.train; repeatable."),
]
AllowInexact = Annotated[
    bool,
    typer.Option(
        "--allow-inexact", help="Resume where the numbers cannot be the same; the log says so."
    ),
]
Publish = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Publish the adapter, if it is not worse than its base."),
]


def sft(
    config: Config,
    changes: Changes = None,
    name: Name = None,
    model: Model = None,
    data: Data = None,
    allow_inexact: AllowInexact = False,
    publish: Publish = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on conversations or on prompts with their answers.

    The same command again resumes a run that was interrupted, and shows the result of one that is
    finished.
    """
    named = {"name": name, "model_name": model, "data.train": data, "publish": publish}
    made = _read(config, changes or [], named, allow_inexact, {}, as_json=as_json)
    _refuse_section(config, made, "preference", "compares answers", "dpo")
    _refuse_section(config, made, "embedding", "compares texts by their vectors", "embed")
    _train(made, as_json=as_json)


def embed(
    config: Config,
    changes: Changes = None,
    name: Name = None,
    model: Model = None,
    data: Data = None,
    allow_inexact: AllowInexact = False,
    publish: Publish = None,
    as_json: AsJson = False,
) -> None:
    """Train an embedding model on texts that belong together, or on texts with labels.

    The same command again resumes a run that was interrupted, and shows the result of one that is
    finished.
    """
    named = {"name": name, "model_name": model, "data.train": data, "publish": publish}
    default: dict[str, Any] = {"embedding": {}}
    made = _read(config, changes or [], named, allow_inexact, default, as_json=as_json)
    _train(made, as_json=as_json)


def dpo(
    config: Config,
    changes: Changes = None,
    name: Name = None,
    model: Model = None,
    data: Data = None,
    allow_inexact: AllowInexact = False,
    publish: Publish = None,
    as_json: AsJson = False,
) -> None:
    """Train a model on preferences: prompts, each with a chosen and a rejected answer.

    Direct preference optimisation and its kin: `preference.loss`. The same command again resumes a
    run that was interrupted, and shows the result of one that is finished.
    """
    named = {"name": name, "model_name": model, "data.train": data, "publish": publish}
    default: dict[str, Any] = {"preference": {}}
    made = _read(config, changes or [], named, allow_inexact, default, as_json=as_json)
    _train(made, as_json=as_json)


def _refuse_section(
    file: Path, config: TrainingConfig, section: str, what: str, command: str
) -> None:
    if getattr(config, section) is not None:
        raise SettingsError(
            f"{file} has a section {section}, which {what}; give it to `ironcliw train {command}`, "
            "or remove the section"
        )


def _read(
    file: Path,
    changes: list[str],
    named: dict[str, Any],
    allow_inexact: bool,
    defaults: dict[str, Any],
    *,
    as_json: bool,
) -> TrainingConfig:
    wanted = changed_keys(changes)
    wanted.update({key: value for key, value in named.items() if value})
    if allow_inexact:
        wanted["allow_inexact"] = True
    from train.config import read_config

    with told_line_by_line(as_json=as_json):
        return read_config(file, wanted, defaults=defaults)


def _train(config: TrainingConfig, *, as_json: bool) -> None:
    settings = console.command_settings()
    from train.run_progress import shown_progress
    from train.trainer import Trainer

    with told_line_by_line(as_json=as_json), shown_progress() as report:
        result = Trainer(config, settings, report).train()
    if as_json:
        console.write_json(dataclasses.asdict(result))
    else:
        _write(result)
    _end(result, config.publish)


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
        worse = result.gate and f"it is worse than its base: {result.gate.words}"
        console.note(
            f"error: not published as {wanted!r}, since {worse or result.ungated}; the adapter "
            f"stays in {result.result}"
        )
        raise typer.Exit(console.EXIT_FAILED)
