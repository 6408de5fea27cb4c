"""`ironcliw route`: train, promote, rollback, status, explain, log and calibrate."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ironcliw import console
from ironcliw.errors import ConflictError

if TYPE_CHECKING:
    from rl.calibration.fit import Fit
    from rl.live.log import Log
    from rl.promotion import Standing

route = typer.Typer(help="Learn where steps run, and see why they run there.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Days = Annotated[float, typer.Option(min=0.01, help="So far back.")]
LogFile = Annotated[
    Path | None, typer.Option("--log", metavar="FILE", help="Of `route log`; the store without.")
]
_DAY = 86_400.0
_WHO = {"tuned": "the tuned policy decides", "rules": "the rules decide"}


@route.command("train")
def train(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of the policy; in the state directory.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.05, help="Of training.")] = 50.0,
    seed: Annotated[int, typer.Option(min=0, help="Of days, weights and choices.")] = 0,
    days: Annotated[int, typer.Option(min=1, help="Of each regime, in the report.")] = 400,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The document; beside the policy.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A short training and a few days: does it work at all?")
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="To begin at, of `rl tune`; this head's own or the shipped one.",
        ),
    ] = None,
    log: LogFile = None,
    install: Annotated[
        bool, typer.Option("--install", help="Have it asked in the shadow when it is done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fit the simulator to the log, learn a policy, and compare it with every other one."""
    from rl.live.training import Plan, train_policy

    settings = console.command_settings()
    folder = settings.state_dir / "routing"
    policy = out or folder / "candidate.npz"
    document = report or policy.with_suffix(".md")
    fit = _fit_file(settings, log, None)
    plan = Plan(policy, document, 1.0 if quick else minutes, seed, days, quick, base, fit)
    found = train_policy(settings, plan, _log_of(settings, log, 60.0), console.note)
    if install:
        _install(settings, policy)
    if as_json:
        console.write_json(found)
        return
    silent = ", which decides as its base does" if found["is_silent"] else ""
    console.write_line(
        f"policy {found['digest'][:12]} in {policy}{silent}, report in {plan.report}"
    )
    if not install:
        console.note(f"`ironcliw route promote {policy}` has it asked in the shadow")


@route.command("promote")
def promote(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A policy to begin with, in the shadow.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Install a policy, or give the installed one its next stage: canary, half, default."""
    settings = console.command_settings()
    if file is not None:
        _tell(_install(settings, file), as_json=as_json)
        return
    from rl.promotion import promoted

    now = time.time()
    _tell(_change(settings, lambda old: promoted(old, now)), as_json=as_json)


@route.command("rollback")
def rollback(
    restore: Annotated[
        bool, typer.Option("--restore", help="Let the tuned policy decide again, after the rules.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take the learned policy off; and if it is off, the tuned one: the rules decide then."""
    from rl.promotion import begun_anew, restored, rolled_back

    settings, now = console.command_settings(), time.time()
    work = (lambda old: restored(old, now)) if restore else (lambda old: rolled_back(old, now))
    # this command alone: what another release has written cannot be read, and must be got rid of
    _tell(_change(settings, work, lambda error: begun_anew(now)), as_json=as_json)


@route.command("status")
def status(as_json: Json = False) -> None:
    """Who decides, what the next stage waits for, and what the last night has found."""
    from rl.live.explaining import status_of

    settings = console.command_settings()
    with _store(settings) as store, store.read() as connection:
        page = status_of(settings, connection, time.time())
    if as_json:
        console.write_json(page)
        return
    for line in page["lines"]:
        console.write_line(line)
    rows = [(_when(one["at"]), one["to"], one["reason"]) for one in reversed(page["changes"][-5:])]
    if rows:
        console.write_table(("when", "to", "because"), rows)


@route.command("explain")
def explain(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="Of a decision, or of a workflow for all of its.")
    ],
    step: Annotated[str | None, typer.Option(help="Only of this step.")] = None,
    as_json: Json = False,
) -> None:
    """Show why steps went where they went: options, dollars, what was refused and why."""
    from rl.live.explaining import explained

    settings = console.command_settings()
    with _store(settings) as store, store.read() as connection:
        found = explained(settings.state_dir, connection, id_, step)
    if as_json:
        console.write_json(found)
        return
    for one in found:
        _write_explained(one)


@route.command("log")
def log_(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Lines of JSON; `-`: print them.")],
    days: Days = 60.0,
) -> None:
    """Write decisions with their outcomes, workflows and machines as lines of JSON."""
    from ironcliw.errors import DataError
    from rl.live.log import lines_of

    settings = console.command_settings()
    log = _log_of(settings, None, days)
    text = "".join(f"{line}\n" for line in lines_of(log))
    if str(out) == "-":
        console.write_line(text.rstrip("\n"))
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error.strerror})") from error
    console.note(f"{len(log.decisions)} decisions and {len(log.workflows)} workflows in {out}")


@route.command("calibrate")
def calibrate(
    log: LogFile = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Of the fit; in the state directory, where a running head takes it up. With "
            "--log and without this it is written nowhere.",
        ),
    ] = None,
    days: Days = 60.0,
    as_json: Json = False,
) -> None:
    """Refit durations, memory, hazard and boot times, and check the simulator against the log."""
    from dataclasses import asdict

    from rl.calibration.fit import fit_log
    from rl.live.judging import judge
    from rl.live.nightly import known

    settings = console.command_settings()
    found_log, now = _log_of(settings, log, days), time.time()
    fit = _kept(fit_log(found_log), _fit_file(settings, log, out))
    if log is not None and found_log.workflows:
        now = max(one.created_at for one in found_log.workflows)
    judged = judge(found_log, now, known(settings), idle_seconds=60.0 * settings.cloud.idle_minutes)
    figures = {} if judged.replay is None else judged.replay.figures
    if as_json:
        page = {name: asdict(one) for name, one in figures.items()}
        console.write_json(
            {"digest": fit.digest, "steps": fit.steps, "replay": page, "misfit": judged.misfit}
        )
        return
    console.write_line(
        f"fit {fit.digest[:12]} of {fit.steps} steps, {len(fit.durations)} functions; a machine is "
        f"taken back every {1 / fit.hazard_per_hour:.0f} h, starts in {fit.boot.median:.0f} s, and "
        f"is {fit.slowdown.median:.2f} times as slow"
    )
    rows = [
        (name, one.logged, one.simulated, "yes" if one.fits else "no")
        for name, one in figures.items()
    ]
    if rows:
        console.write_table(("figure", "log", "simulator", "fits"), rows)
    if judged.misfit:
        console.write_line(f"the simulator does not fit, so nothing is promoted: {judged.misfit}")


# ---------------------------------------------------------------------- its parts


def _store(settings: Any) -> Any:
    from ironcliw.store import Store

    store = Store(settings.store_url)
    store.migrate()
    return store


def _log_of(settings: Any, file: Path | None, days: float) -> Log:
    from rl.live.log import read_log
    from rl.live.stored_log import stored_log

    if file is not None:
        return read_log(file)
    now = time.time()
    with _store(settings) as store, store.read() as connection:
        return stored_log(connection, now - days * _DAY, now)


def _fit_file(settings: Any, log: Path | None, out: Path | None) -> Path | None:
    """Where a fit is written; this cluster does not believe one to a file's log unasked."""
    if out is not None:
        return out
    return None if log is not None else Path(settings.state_dir) / "routing" / "fit.json"


def _kept(fit: Fit, path: Path | None) -> Fit:
    from rl.calibration.files import save_fit, with_digest

    if path is not None:
        return save_fit(path, fit)
    console.note("the fit is written nowhere; give --out FILE to keep it")
    return with_digest(fit)


def _install(settings: Any, file: Path) -> Standing:
    from rl.live.nightly import known
    from rl.live.suitability import beyond_training, unproven
    from rl.live.training import installed
    from rl.policy_file import load_policy
    from rl.promotion import install

    digest, now = installed(settings.state_dir, file), time.time()
    policy = load_policy(file)
    if told := unproven(policy):
        console.note(told)
    for unlike in beyond_training(policy, known(settings)):
        console.note(
            f"this head is unlike those of its training, so it will decide nothing: {unlike}; "
            "`ironcliw route train` makes one for this head"
        )
    return _change(settings, lambda old: install(old, digest, now))


def _change(settings: Any, work: Any, anew: Any = None) -> Standing:
    from rl.live.state import change

    name = "rl.policy:NumpyPolicy"
    if settings.routing.policy != name:
        console.note(f"setting routing.policy is {settings.routing.policy!r}: set it to {name!r}")
    with _store(settings) as store, store.write() as connection:
        return change(connection, work, anew)


def _tell(standing: Standing, *, as_json: bool) -> None:
    from rl.promotion import to_json

    if as_json:
        console.write_json(to_json(standing))
        return
    if not standing.changes:
        raise ConflictError("nothing has been installed; give a file: `route promote FILE`")
    last = standing.changes[-1]
    console.write_line(
        f"policy {standing.policy[:12] or 'none'} stands at {standing.stage}, elsewhere "
        f"{_WHO[standing.base]} ({last.reason}); a running head follows within seconds"
    )


def _write_explained(one: dict[str, Any]) -> None:
    console.write_line(f"{one['step']} attempt {one['attempt']}: {one['chosen']}, {one['why']}")
    rows = [
        (
            option["name"] + (" <" if option["is_chosen"] else ""),
            _dollars(option["cost"]),
            _dollars(option["score"]),
            option["refused"] or "",
        )
        for option in one["options"]
    ]
    console.write_table(("option", "USD", "score", "refused because"), rows)
    for line in one["lines"]:
        console.write_line(f"  {line}")
    console.write_line("")


def _dollars(value: float | None) -> str | None:
    return None if value is None or not math.isfinite(value) else f"{value:.5f}"


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
