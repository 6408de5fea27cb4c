"""The operator's commands: `up`, `down`, `status`, `env`."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.examples import welcome
from cluster.head.gcs_storage import of_record
from cluster.head.lifecycle import running_head, start_head, stop_every_head, stop_head
from cluster.head.ray_environment import client_environment
from cluster.head.record import HeadRecord, record_path
from cluster.status import fetch_status, settings_rows, write_status
from ironcliw.console import command_settings, note, write_json, write_line, write_table
from ironcliw.errors import NotRunningError
from ironcliw.settings import Settings

if TYPE_CHECKING:
    from cluster.control.status import CloudStatus

up = typer.Typer()
down = typer.Typer()
status = typer.Typer()
env = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@up.command()
def _up(
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay until Ctrl-C, then stop everything.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start the Ray head and the service, or join the one that runs already."""
    settings = command_settings()
    # `down` and `make` end us with SIGTERM: take it as Ctrl-C, so that nothing stays behind
    signal.signal(signal.SIGTERM, _interrupt)
    started_at = time.monotonic()
    record, started = start_head(settings, note)
    seconds = time.monotonic() - started_at
    if as_json:
        write_json({**_facts(record), "started": started, "seconds": round(seconds, 2)})
    else:
        write_line(welcome(settings, record, started=started, seconds=seconds))
    sys.stdout.flush()
    if foreground:
        _stay(settings, record, started=started)


@down.command()
def _down(
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="End the processes of every head of this user, whatever its state directory.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Stop all that `up` started; returns when the last process is gone."""
    settings = command_settings()
    ended = stop_every_head(settings, note) if everything else stop_head(settings, note)
    if as_json:
        write_json({"ended_processes": ended})
    else:
        write_line(f"stopped: {ended} processes ended" if ended else "nothing was running")


@status.command()
def _status(
    show_settings: Annotated[
        bool, typer.Option("--settings", help="The effective settings and their origin.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show nodes, models, memory, queues, and what is degraded and why."""
    if show_settings:
        rows = settings_rows()
        if as_json:
            write_json({name: {"value": value, "origin": origin} for name, value, origin in rows})
        else:
            write_table(("setting", "value", "origin"), [(n, str(v), o) for n, v, o in rows])
        return
    settings = command_settings()
    # with client.base_url set, another service is meant than the one that may run here
    record = None if settings.client.base_url else running_head(settings)
    if record is None and not settings.client.base_url:
        raise NotRunningError(
            f"no head runs for the state directory {settings.state_dir}; start one with "
            "`ironcliw up` (or `make serve`)"
        )
    facts: dict[str, Any] = {} if record is None else _facts(record)
    report = {**facts, **fetch_status(settings)}
    cloud = _cloud_status(settings)
    if as_json:
        write_json(report if cloud is None else {**report, "cloud": cloud.to_json()})
        return
    write_status(report)
    if cloud is not None:
        write_line("")
        for line in cloud.lines():
            write_line(line)


@env.command()
def _env() -> None:
    """Print shell lines for `eval`, so that `ray job submit` and `ray status` reach the head."""
    settings = command_settings()
    if running_head(settings) is None:
        note("note: no head runs yet; start one with `ironcliw up`")
    for name, value in client_environment(settings).items():
        write_line(f"export {name}={shlex.quote(value)}")


def _cloud_status(settings: Settings) -> CloudStatus | None:
    """Of this machine's cluster; None: it has no cloud, or another service is meant."""
    if settings.client.base_url:
        return None
    # where the machines are, whatever the settings say by now
    settings = of_record(settings)
    if settings.cloud.project is None:
        return None
    # SQLAlchemy takes a while to load, which a head without a cloud need not wait for
    from cluster.control.status import cloud_status

    return cloud_status(settings)


def _facts(record: HeadRecord) -> dict[str, Any]:
    return {"base_url": record.base_url, "dashboard_url": record.dashboard_url}


def _stay(settings: Settings, record: HeadRecord, *, started: bool) -> None:
    note(
        "Ctrl-C stops everything" if started else "joined a running head; Ctrl-C leaves it running"
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(1.0):
        if HeadRecord.read(record_path(settings.state_dir)) != record:
            note("the head was stopped by another command")
            return
    if started:
        note("stopping")
        stop_head(settings, note)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
