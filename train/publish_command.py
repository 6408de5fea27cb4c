"""`ironcliw train publish`: a finished run into the register of what is served, or on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ironcliw import console
from ironcliw.errors import SettingsError

if TYPE_CHECKING:
    from ironcliw.settings import Settings


def publish(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN|HEAD", help="A run's name, folder or URI; or a head's folder."),
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="To publish the adapter under, to be served."),
    ] = None,
    hub: Annotated[
        str | None,
        typer.Option("--hub", metavar="OWNER/NAME", help="Repository of the Hugging Face Hub."),
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="On the Hub the merged model, not the adapter.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="On the Hub for all; else for the owner alone.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put the files in place of those of a repository.")
    ] = False,
    licence: Annotated[
        str | None, typer.Option(help="Of the base, where the catalogue does not know it.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Although it is worse than its base; what is made says so."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Publish what a finished run has made, if it is not worse than its base; or a saved head.

    With NAME its adapter is served at once, with --hub it goes to the Hugging Face Hub.
    """
    if name is None and hub is None:
        raise SettingsError(
            "nowhere to publish to: give a NAME to serve the adapter under, or --hub OWNER/NAME"
        )
    if hub is None and (merged or public or replace or licence is not None):
        raise SettingsError(
            "--merged, --public, --replace and --licence belong to --hub OWNER/NAME"
        )
    settings = console.command_settings()
    found: dict[str, Any] = {}
    if hub is not None:
        _refuse_head(run)
    if name is not None:
        found.update(_register(run, name, settings, force=force))
    if hub is not None:
        from train.export.hub_publish import publish_to_hub

        commit = publish_to_hub(
            run,
            hub,
            settings,
            merged=merged,
            public=public,
            replace=replace,
            force=force,
            licence=licence,
        )
        found.update({"hub": commit.url, "revision": commit.revision})
    if as_json:
        console.write_json(found)
        return
    shown = ("model_id", "version", "source", "forced", "hub", "revision")
    words = {"model_id": "model", "source": "files"}
    console.write_table(
        ("", ""),
        [(words.get(key, key), _cell(found[key])) for key in shown if key in found],
    )


def _refuse_head(run: str) -> None:
    from train.heads.publishing import is_head_folder

    if is_head_folder(Path(run).expanduser()):
        raise SettingsError(f"{run} holds a head, which is of use here alone; leave --hub out")


def _register(run: str, name: str, settings: Settings, *, force: bool) -> dict[str, Any]:
    from train.heads.publishing import is_head_folder, publish_head

    folder = Path(run).expanduser()
    if is_head_folder(folder):
        head = publish_head(folder, name, settings, force=force)
        return {**head.encode(), "model_id": head.model_id}
    from train.publish import publish_run
    from train.run_files import run_uri

    record = publish_run(run_uri(run, settings), name, settings, force=force)
    return {**record.encode(), "model_id": record.model_id}


def _cell(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
