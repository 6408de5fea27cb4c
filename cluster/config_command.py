"""The command `ironcliw cluster`: render the cluster's definition, and check one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.config import CLUSTER_FILE, difference, is_rendered, render, write_cluster_file
from cluster.config_check import is_ours, read_cluster_file, validate
from ironcliw.console import command_settings, write_line
from ironcliw.errors import ClusterError

cluster = typer.Typer(help="Render and check the cluster's definition.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="The definition.")]


@cluster.command("render")
def render_file(
    path: File = Path(CLUSTER_FILE),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if the file is out of date.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over any file.")] = False,
) -> None:
    """Write the definition that the settings mean; a file of another hand is left alone."""
    settings = command_settings()
    validate(render(settings))
    if check:
        found = difference(settings, path)
        if found is not None:
            raise ClusterError(f"{found}; run `ironcliw cluster render {path}`")
        write_line(f"{path} is what the settings mean")
    elif not force and not is_rendered(path):
        raise ClusterError(
            f"{path} was not written by `ironcliw cluster render`, and is left alone; name another "
            "file, or add --force to lose what it holds"
        )
    elif write_cluster_file(settings, path):
        write_line(f"{path} written")
    else:
        write_line(f"{path} was up to date")


@cluster.command("validate")
def validate_file(path: File = Path(CLUSTER_FILE)) -> None:
    """Check a definition: YAML, Ray's schema, our settings in it, and Ray's own reader."""
    definition = read_cluster_file(path)
    if is_ours(definition):
        write_line(f"{path} is valid")
    else:
        write_line(f"{path} is what Ray reads; its provider is not ours and was not looked at")
