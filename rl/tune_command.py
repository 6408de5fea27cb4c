"""`python -m rl tune`: searches the parameters of a policy on days of training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ironcliw.errors import SettingsError
from ironcliw.settings import load_settings
from rl.arguments import check_place, count, seed, write
from rl.greedy import GreedyParameters
from rl.parameters import POLICIES, TUNED, Parameters, load_parameters, load_tuned, written
from rl.queue_parameters import QueueParameters
from rl.regime import Regime, load_regime
from rl.sources import RandomisedDays, RegimeDays
from rl.tuning import Progress, Search, Source, tune

_DEFAULTS = Search()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command."""
    add = parser.add_argument
    add("--regime", type=Path, action="append", required=True, help="may be repeated")
    add("--randomised", action="store_true", help="a further part of the days: of wide ranges")
    add("--policy", choices=POLICIES, default="greedy")
    add("--start", type=Path, help="a file to go on from; the policy's defaults without it")
    add("--base", type=Path, default=TUNED, help="of the greedy policy whose cost is 1")
    add("--days", type=count, default=_DEFAULTS.days, help="a generation, of all parts together")
    add("--generations", type=count, default=_DEFAULTS.generations)
    add("--population", type=count, default=_DEFAULTS.population)
    add("--first-day", type=seed, default=0, help="number of the first: fresh ones for going on")
    add("--seed", type=seed, default=0)
    add("--processes", type=count, default=1)
    add("--out", type=Path, required=True, help="written after each generation")


def run(arguments: argparse.Namespace) -> None:
    """Search, and write what is found.

    Raises:
        SettingsError: a file cannot be read or written, a regime is held out, or the file to go on
            from is of the other policy.
    """
    check_place(arguments.out)
    regimes = [_trained(load_regime(path)) for path in arguments.regime]
    data = load_settings().bench.data
    sources: list[Source] = [RegimeDays(one, arguments.seed, data=data) for one in regimes]
    if arguments.randomised:
        sources.append(RandomisedDays(arguments.seed))
    search = Search(
        generations=arguments.generations,
        population=max(4, arguments.population),
        days=arguments.days,
        seed=arguments.seed,
        processes=arguments.processes,
        first=arguments.first_day,
    )
    digests = {regime.name: regime.digest() for regime in regimes}
    command = _command(arguments)

    def report(progress: Progress, centre: Parameters) -> None:
        write(arguments.out, written(centre, digests, command))
        sys.stdout.write(
            f"generation {progress.generation}: centre {progress.centre:.4f} of the base's cost on "
            f"fresh days, best {progress.best:.4f}, machines {progress.dollars:.3f}\n"
        )
        sys.stdout.flush()

    start, base = _start(arguments), load_parameters(arguments.base)
    if isinstance(start, QueueParameters):
        tune(start, base, sources, search, report)
    else:
        tune(start, base, sources, search, report)


def _start(arguments: argparse.Namespace) -> Parameters:
    is_aware = arguments.policy == "queue-aware"
    if arguments.start is None:
        return QueueParameters() if is_aware else GreedyParameters()
    found = load_tuned(arguments.start)
    if isinstance(found, QueueParameters) != is_aware:
        raise SettingsError(
            f"{arguments.start} is not of the {arguments.policy} policy; give --policy as the file "
            "has it, or another file"
        )
    return found


def _trained(regime: Regime) -> Regime:
    if not regime.trained:
        raise SettingsError(f"regime {regime.name!r} is held out (trained = false); tune on others")
    return regime


def _command(arguments: argparse.Namespace) -> str:
    names = " ".join(f"--regime {path}" for path in arguments.regime)
    more = " --randomised" if arguments.randomised else ""
    more += f" --start {arguments.start}" if arguments.start else ""
    return (
        f"python -m rl tune --policy {arguments.policy} {names}{more} --days {arguments.days} "
        f"--generations {arguments.generations} --population {arguments.population} "
        f"--first-day {arguments.first_day} --seed {arguments.seed}"
    )
