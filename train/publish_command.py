"""`ironcliw train publish` and `merge`: what becomes of a finished run's adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ironcliw import console

Run = Annotated[str, typer.Argument(metavar="RUN", help="Its name, or its folder or URI.")]


def publish(
    run: Run,
    name: Annotated[str, typer.Argument(metavar="NAME", help="To publish the adapter under.")],
    force: Annotated[
        bool,
        typer.Option("--force", help="Although it is worse than its base; the register says so."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Publish the adapter of a finished run, if it is not worse than its base."""
    settings = console.command_settings()
    from train.publish import publish_run
    from train.run_files import run_uri

    record = publish_run(run_uri(run, settings), name, settings, force=force)
    if as_json:
        console.write_json(record.encode())
        return
    console.write_table(
        ("", ""),
        [
            ("model", record.model_id),
            ("version", str(record.version)),
            ("files", record.source),
            ("forced", "yes" if record.forced else "no"),
        ],
    )


def merge(
    run: Run,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="For the model; not there yet, or empty.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge the adapter of a finished run into its base, as a model of its own.

    For DoRA, which is not served beside other adapters, and for other programs.
    """
    settings = console.command_settings()
    from train.merge import merge_run
    from train.run_files import run_uri

    made = merge_run(run_uri(run, settings), folder, settings)
    if as_json:
        console.write_json({"folder": str(made)})
        return
    console.write_line(
        f'{made}\nto serve it: [models.NAME] in ironcliw.toml, with source = "dir:{made}" and '
        'task = "generation"'
    )
