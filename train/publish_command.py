"""`ironcliw train publish`: a finished run's adapter into the register of what is served."""

from __future__ import annotations

from typing import Annotated

import typer

from ironcliw import console


def publish(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Its name, or its folder or URI.")],
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
