"""Options that several commands of `ironcliw train` have, and what they do with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ironcliw import console
from ironcliw.errors import DataError, SettingsError

Config = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="YAML, as those in train/configs.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="E.g. data.max_length=512; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def changed_keys(pairs: list[str]) -> dict[str, Any]:
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


@contextlib.contextmanager
def told_line_by_line(*, as_json: bool) -> Iterator[None]:
    """Write messages of several lines as they are; others are `main`'s."""
    try:
        yield
    except (DataError, SettingsError) as error:
        if as_json or "\n" not in error.message:
            raise
        console.note(f"error: {error.message}")
        raise typer.Exit(console.exit_code(error)) from error
