"""`python -m rl report`: every policy on the days of every regime, as a document with pictures."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from ironcliw import __version__
from ironcliw.errors import SettingsError
from ironcliw.settings import load_settings
from rl.arguments import check_place, count, seed, write
from rl.evaluate import BASE
from rl.parameters import TUNED
from rl.report import plots, speed
from rl.report.board import Board
from rl.report.goals import Verdict, verdicts
from rl.report.page import page
from rl.report.plan import Options, Plan, Unit
from rl.report.runs import Columns, Report, Store, columns_of, run_all
from rl.report.timeline import record
from rl.traces import Split
from rl.workload import make_day

QUICK = {"days": 12, "clairvoyant": 2, "evaluations": 30, "frontier": 6}
_FACTS = {"release": __version__}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("--regime", type=Path, action="append", default=[], help="repeatable; without it our six")
    add(
        "--policy",
        type=Path,
        nargs="+",
        default=[],
        help="files of learned policies, one a seed, or of `tune`",
    )
    add("--parameters", type=Path, default=TUNED, help="of the tuned greedy policy")
    add("--days", type=count, help="of each regime; 400")
    add("--clairvoyant", type=count, help="of them, so many are searched; 24")
    add("--evaluations", type=count, help="of that search, a day; 400")
    add("--frontier", type=count, help="days on which the value of time is varied; 100")
    add("--seed", type=seed, default=1, help="of the days")
    add("--split", choices=get_args(Split), default="test")
    add("--quick", action="store_true", help="a few days, for finding a broken path")
    add("--processes", type=count, default=2, help="that work at once")
    add("--data", type=Path, help="the data folder; the setting bench.data without it")
    add("--work", type=Path, default=Path("build/routing"), help="where results of parts are kept")
    add("--json", type=Path, help="where the figures of every goal go")
    add("--out", type=Path, default=Path("build/routing/report.md"), help="the document")


def options_of(arguments: argparse.Namespace) -> Options:
    """What the options ask for."""
    sizes = {name: getattr(arguments, name) for name in QUICK}
    quick = QUICK if arguments.quick else {}
    defaults = Options()
    chosen = {
        name: given if given is not None else quick.get(name, getattr(defaults, name))
        for name, given in sizes.items()
    }
    chosen["clairvoyant"] = min(chosen["clairvoyant"], chosen["days"])
    chosen["frontier"] = min(chosen["frontier"], chosen["days"])
    return Options(
        regimes=tuple(arguments.regime),
        policies=tuple(arguments.policy),
        parameters=arguments.parameters,
        seed=arguments.seed,
        split=arguments.split,
        data=arguments.data or load_settings().bench.data,
        processes=arguments.processes,
        **chosen,
    )


def write_report(
    options: Options,
    out: Path,
    work: Path,
    facts: Mapping[str, str] = _FACTS,
    report: Report | None = None,
) -> list[Verdict]:
    """Run what is not done yet, then write the document and its pictures; returns all goals.

    Args:
        options: What is compared.
        out: The document; its pictures go into a folder of its name beside it.
        work: Folder that keeps what is done, so that the same command goes on.
        facts: Of the machine and the release, for the end of the document.
        report: Told of the progress, in words.

    Raises:
        SettingsError: a regime, policy or data file is not what it should be, or `out` cannot be
            written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{out} cannot be written ({error.strerror})") from error
    check_place(out)
    begun = time.monotonic()
    plan, store = Plan.of(options), Store(work)
    board = _run(plan, store, report or (lambda text: None))
    ours = next(one for one in plan.on_all_days() if one.name == board.ours)
    pace = speed.measured(Path(ours.file) if ours.file else None)
    of_time = speed.verdicts(pace, training_minutes(plan))
    try:
        pictures = _draw(plan, board, out.with_suffix(""))
        seconds = {"seconds of this run": f"{time.monotonic() - begun:.0f}"}
        text = page(plan, board, pictures, {**facts, **seconds}, of_time)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{out} cannot be written ({error.strerror})") from error
    return [*verdicts(board), *of_time]


def training_minutes(plan: Plan) -> list[float]:
    """Of each learned policy, as the file beside it says (`NAME.json`); none where it is absent."""
    found = []
    for one in plan.learned:
        seconds = _seconds_of(Path(one.file).with_suffix(".json"))
        if seconds is not None:
            found.append(seconds / 60.0)
    return found


def _seconds_of(path: Path) -> float | None:
    """Of a training; None where the file beside a policy is absent, or says something else."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    seconds = told.get("seconds") if isinstance(told, dict) else None
    return float(seconds) if isinstance(seconds, int | float) else None


def _run(plan: Plan, store: Store, report: Report) -> Board:
    options = plan.options
    everyone = plan.on_all_days()
    whole = plan.units(everyone, options.days)
    searched = plan.units([plan.search], options.clairvoyant, block=1)
    run_all([*searched, *whole], store, options.data, options.processes, report)
    all_days = _table(plan, whole, store)
    known = _table(plan, searched, store)
    for regime, policies in known.items():
        for name, columns in all_days[regime].items():
            policies[name] = {
                column: values[: options.clairvoyant] for column, values in columns.items()
            }
    names = tuple(one.name for one in plan.learned)
    board = Board(options.days, all_days, known, names)
    swept = plan.units(plan.of_frontier(board.ours), options.frontier)
    run_all(swept, store, options.data, options.processes, report)
    board.frontier = _table(plan, swept, store)
    for regime, policies in board.frontier.items():
        for name in dict.fromkeys((BASE, board.ours)):
            columns = all_days[regime][name]
            policies[f"{name} at 1"] = {
                column: values[: options.frontier] for column, values in columns.items()
            }
    return board


def _table(plan: Plan, units: Sequence[Unit], store: Store) -> dict[str, dict[str, Columns]]:
    names = dict.fromkeys(unit.contestant.name for unit in units)
    return {
        regime.name: {
            name: columns_of(
                [
                    unit
                    for unit in units
                    if unit.regime.name == regime.name and unit.contestant.name == name
                ],
                store,
            )
            for name in names
        }
        for regime in plan.regimes
    }


def _draw(plan: Plan, board: Board, folder: Path) -> dict[str, str]:
    """Write the pictures; returns the path of each beside the document, by its caption."""
    folder.mkdir(parents=True, exist_ok=True)
    options = plan.options
    plots.frontier(board, folder / "frontier.svg")
    plots.regret(board, folder / "regret.svg")
    regime = next((one for one in plan.regimes if one.name == "busy"), plan.regimes[0])
    day = make_day(regime, options.seed, options.split, 0, data=options.data)
    wanted = dict.fromkeys((BASE, board.ours))
    policies = {one.name: one.policy() for one in plan.on_all_days() if one.name in wanted}
    days = {name: record(day, policies[name]) for name in wanted}
    plots.timeline(days, f"first day of {regime.name}", folder / "day.svg")
    names = {
        "frontier.svg": "Machines' cost against deadlines kept; the curves tell a policy other "
        "values of time",
        "regret.svg": "Cost above who knew the day, with 95 % intervals",
        "day.svg": "One day: steps at home and on machines",
    }
    return {caption: f"{folder.name}/{name}" for name, caption in names.items()}


def run(arguments: argparse.Namespace) -> None:
    """The command: progress on stderr, the document's path on stdout."""
    make(arguments, arguments.out)


def make(
    arguments: argparse.Namespace, out: Path, facts: Mapping[str, str] = _FACTS
) -> list[Verdict]:
    """The same with a place and facts of the caller's; returns all goals, those of time too."""

    def tell(text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    check_place(arguments.json)
    goals = write_report(options_of(arguments), out, arguments.work, facts, tell)
    if arguments.json:
        found = [asdict(one) for one in goals]
        write(arguments.json, json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"written to {out}\n")
    return goals
