"""`python -m benchmarks THEME`: run a theme, write its page, exit 1 where a goal is missed."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks import machine, report
from benchmarks.harness import CAPS, BenchmarkError, Options, ThemeResult, positive
from benchmarks.peers import infinity_peer
from benchmarks.servers import MODEL
from ironcliw import logs
from ironcliw.catalog import Catalog
from ironcliw.errors import IroncliwError
from ironcliw.setting_sections import LogSettings
from ironcliw.settings import export_environment, load_settings
from ironcliw.sources import locate

# Imported only when asked for: a theme may need what another's user has not installed.
THEMES = {
    "native": "benchmarks.themes.native",
    "engines": "benchmarks.themes.engines",
    "serving": "benchmarks.themes.serving",
    "generation": "benchmarks.themes.generation",
    "decisions": "benchmarks.themes.decisions",
    "cluster": "benchmarks.themes.cluster",
    "train": "benchmarks.themes.train",
    "actors": "benchmarks.themes.actors",
}


def main(argv: Sequence[str]) -> int:
    """Run one theme.

    Returns:
        0 when every goal is met, 1 when one is missed or the theme could not be run.
    """
    arguments = _parser().parse_args(argv)
    try:
        options = _options(arguments)
        started = datetime.datetime.now().astimezone()
        load = machine.load_average()
        if options.cap:
            # also for what a theme measures in this process; before it imports torch
            export_environment(CAPS[options.cap])
        theme = importlib.import_module(THEMES[arguments.theme])
        _check_parts(arguments.theme, options.parts, getattr(theme, "PARTS", ()))
        with _leaving_on_sigterm():
            result: ThemeResult = theme.run(options)
    except IroncliwError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    hardware = machine.Machine.read()
    page = report.render(arguments.theme, result, hardware, _facts(argv, started, load))
    named = (options.cap, *options.parts, "quick" if options.quick else None)
    marks = [mark for mark in named if mark]
    path = arguments.results / report.file_name(arguments.theme, hardware, started.date(), *marks)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    if arguments.json:
        report.write_json(arguments.json, result.rows)
    sys.stdout.write(f"{page}\nwritten to {path}\n")
    return 1 if result.missed else 0


def _check_parts(theme: str, given: Sequence[str], known: Iterable[str]) -> None:
    names = list(known)
    if wrong := [part for part in given if part not in names]:
        has = f"its parts are {', '.join(names)}" if names else "it has no parts"
        raise BenchmarkError(f"theme {theme} has no part {wrong[0]!r}; {has}")


@contextlib.contextmanager
def _leaving_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that a run that is stopped still ends its servers."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("theme", choices=sorted(THEMES), help="what to measure")
    add("--quick", action="store_true", help="fewer texts and seconds: under two minutes")
    add("--json", type=Path, metavar="FILE", help="write the rows as JSON, too")
    add("--cap", choices=sorted(CAPS), help="cap the instruction set of ours and peers")
    add("--rounds", type=positive, metavar="N", help="rounds of alternation")
    add("--part", action="append", help="of a theme that has parts, such as train; repeatable")
    add("--data", type=Path, metavar="DIR", help="folder of the texts (setting bench.data)")
    add("--results", type=Path, metavar="DIR", default=machine.ROOT / "benchmarks" / "results")
    return parser


def _options(arguments: argparse.Namespace) -> Options:
    settings = load_settings()
    return Options(
        data=machine.data_folder(arguments.data or settings.bench.data),
        model=locate(Catalog(settings.models)[MODEL], settings.state_dir / "models"),
        quick=arguments.quick,
        rounds=arguments.rounds,
        cap=arguments.cap,
        threads=os.cpu_count() or 1,
        parts=tuple(arguments.part or ()),
    )


def _facts(argv: Sequence[str], started: datetime.datetime, load: float) -> dict[str, str]:
    versions = machine.versions()
    folder = infinity_peer.site_packages()
    if folder is not None:
        others = machine.versions(machine.INFINITY_PACKAGES, folder)
        versions["infinity-emb"] = ", ".join(
            f"{value if name == 'infinity-emb' else f'{name} {value}'}"
            for name, value in others.items()
        )
    return {
        "versions": "; ".join(f"{name} {value}" for name, value in versions.items()),
        "command": report.command_line(argv),
        "commit": machine.commit(),
        "date": started.isoformat(timespec="minutes"),
        "load average before": f"{load:.2f}",
    }


if __name__ == "__main__":
    # progress on standard error; a caller in process has its own logging
    logs.configure(LogSettings())
    sys.exit(main(sys.argv[1:]))
