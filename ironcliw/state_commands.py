"""`ironcliw state`: copies of the state store: workflows, messages, keys, the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ironcliw.console import command_settings, write_json, write_line
from ironcliw.errors import SettingsError

state = typer.Typer(help="Back up and restore the state store.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@state.command("backup")
def _backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy; it must not exist.")],
    as_json: Json = False,
) -> None:
    """Copy the state store into one file; the cluster may go on running."""
    # SQLAlchemy takes a while to load, which `--help` need not wait for
    from ironcliw import state_postgresql, state_sqlite

    url, path = _store()
    if path is not None:
        state_sqlite.backup(path, file)
    else:
        state_postgresql.backup(url, file)
    size = file.stat().st_size
    if as_json:
        write_json({"file": str(file.absolute()), "bytes": size})
    else:
        write_line(f"{file}: {size:,} bytes; it holds secrets' digests and your data: keep it safe")


@state.command("restore")
def _restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A copy that `backup` made.")],
    as_json: Json = False,
) -> None:
    """Put a copy in the place of the state store; what was there is kept beside it.

    Nothing may use the store meanwhile: run `ironcliw down` first. What happened after the copy
    was made is not in it: workflows go on from where they stood then.
    """
    from ironcliw import state_postgresql, state_sqlite

    url, path = _store()
    kept: Path | None
    if path is not None:
        kept = state_sqlite.restore(path, file)
    else:
        kept = _place_for_dump()
        state_postgresql.restore(url, file, kept)
    if as_json:
        write_json({"file": str(file.absolute()), "kept": None if kept is None else str(kept)})
        return
    write_line(f"restored from {file}; the next `ironcliw up` goes on from there")
    if kept is not None:
        write_line(f"what was there before is kept as {kept}")


def _store() -> tuple[str, Path | None]:
    """The store's URL; of a SQLite file also where it is."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    url = command_settings().store_url
    try:
        parsed = make_url(url)
    except ArgumentError:
        # the URL itself may hold a password
        raise SettingsError("setting store.url is malformed; see `ironcliw doctor`") from None
    if parsed.get_backend_name() != "sqlite":
        return url, None
    return url, Path(str(parsed.database)).absolute()


def _place_for_dump() -> Path:
    folder = command_settings().state_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / f"state.before-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%fZ')}.dump"
