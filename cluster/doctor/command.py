"""The command `ironcliw doctor`: what is wrong with machine and cluster, and what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.doctor.checklist import examine
from cluster.doctor.probes import real_probes
from cluster.doctor.report import Check, State
from ironcliw.console import (
    EXIT_FAILED,
    command_settings,
    progress,
    write_json,
    write_line,
    write_table,
)

doctor = typer.Typer()


@doctor.command()
def _doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check machine, network, cloud and budget; exit code 1 if anything does not work."""
    settings = command_settings()
    checks: list[Check] = []
    with progress("checking", total=1) as update:
        for check in examine(settings, real_probes(settings)):
            checks.append(check)
            update(0, f"checked: {check.name}")
    counts = {state: sum(one.state is state for one in checks) for state in State}
    if as_json:
        write_json(
            {
                "checks": [one.as_json() for one in checks],
                "errors": counts[State.ERROR],
                "warnings": counts[State.WARNING],
            }
        )
    else:
        _write(checks)
        write_line(f"\n{counts[State.ERROR]} errors, {counts[State.WARNING]} warnings")
    if counts[State.ERROR]:
        raise typer.Exit(EXIT_FAILED)


def _write(checks: list[Check]) -> None:
    write_table(("check", "state", "found"), [(one.name, one.state, one.found) for one in checks])
    steps = [one for one in checks if one.next_step]
    if steps:
        write_line("\nWhat to do next:")
    for number, one in enumerate(steps, 1):
        write_line(f"  {number}. {one.name}: {one.next_step}")
