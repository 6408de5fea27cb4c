"""`ironcliw bench`: the themes of `python -m benchmarks`, and `fetch-data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from benchmarks.fetch_data import SOURCES, fetch
from ironcliw import console


class _ThemeGroup(TyperGroup):
    """Takes a word that is no command for a theme: `bench engines` is `bench run engines`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)


bench = typer.Typer(
    cls=_ThemeGroup,
    help="Measure ours against other servers: `ironcliw bench engines --quick`.",
    no_args_is_help=True,
)


@bench.command(
    "run",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def run(context: typer.Context) -> None:
    """THEME [OPTIONS]: as `python -m benchmarks`; the word `run` may be left out."""
    # the harness brings torch and the peers: only for who measures
    from benchmarks.__main__ import main

    console.command_settings()
    raise typer.Exit(main(list(context.args)))


@bench.command("fetch-data")
def fetch_data(
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Unset: the setting bench.data.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that differ.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fetch the benchmarks' texts from their public sources, checked by SHA-256."""
    folder = data or console.command_settings().bench.data
    with console.progress("fetching", sum(source.bytes for source in SOURCES)) as update:
        written = set(fetch(folder, force=force, progress=update))
    rows = [
        {
            "file": str(folder / file.path),
            "state": "written" if folder / file.path in written else "was there",
            "licence": source.licence,
            "source": source.url,
        }
        for source in SOURCES
        for file in source.files
    ]
    if as_json:
        console.write_json(rows)
    else:
        console.write_table(tuple(rows[0]), [tuple(row.values()) for row in rows])
