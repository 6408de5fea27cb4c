"""`ironcliw train eval`: a base and its adapters on suites of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ironcliw import console
from ironcliw.errors import SettingsError
from train.command_options import AsJson, Changes, Config, changed_keys, told_line_by_line

REPORT, PAGE = "report.json", "report.md"


def evaluate(
    config: Config,
    changes: Changes = None,
    model: Annotated[
        str | None, typer.Option(help="The base, in place of the file's model_name.")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WHERE",
            help="In place of the file's: a run, an adapter's folder or its name in the register; "
            "repeatable.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the report.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a base and its adapters on suites of tasks, and compare them row by row."""
    wanted = changed_keys(changes or [])
    wanted |= {} if model is None else {"model_name": model}
    wanted |= {} if not adapter else {"adapters": _adapters(adapter)}
    wanted |= {} if output is None else {"output": str(output)}
    settings = console.command_settings()
    from train.comparison.config import read_comparison
    from train.comparison.report import as_json as whole
    from train.comparison.report import as_markdown
    from train.comparison.run import compare
    from train.run_files import RunFiles

    with told_line_by_line(as_json=as_json):
        asked = read_comparison(config, wanted)
        results = compare(asked, settings, console.note)
    folder = asked.output or str(settings.state_dir / "eval" / asked.name)
    files = RunFiles(folder)
    report = whole(asked, results)
    files.write(REPORT, report)
    files.write_text(PAGE, as_markdown(asked, results))
    if as_json:
        console.write_json({**report, "report": files.path(PAGE)})
    else:
        _write(results)
        console.write_line(f"report: {files.path(PAGE)}")


def _write(results: list[Any]) -> None:
    from train.comparison.report import measures_table, wins_table

    for result in results:
        console.write_line(f"{result.name}: {result.rows} rows of {result.kind}")
        console.write_table(*measures_table(result))
        if result.win_rates:
            console.write_table(*wins_table(result))
        console.write_line("")


def _adapters(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, sign, where = pair.partition("=")
        if not (name and sign and where):
            raise SettingsError(f"--adapter is {pair!r}; write NAME=WHERE, as bot=my-run")
        found[name] = where
    return found
