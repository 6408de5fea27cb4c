"""`python -m rl sweep FILE`: which numbers of a training are the best, on days of validation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ironcliw.errors import TrainingError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("file", type=Path, help="a TOML file, see rl/sweep/config.py")
    parser.add_argument("--results", type=Path, help="folder; build/sweeps/NAME without it")


def run(arguments: argparse.Namespace) -> None:
    """Run or go on with a sweep; results are written whatever became of its trials.

    Raises:
        SettingsError: the file is wrong, or the sweep was begun with other values.
        TrainingError: no trial has a figure.
    """
    import ray

    from rl.sweep.config import read_sweep
    from rl.sweep.results import ranked, table, write
    from rl.sweep.run import run_sweep

    config = read_sweep(arguments.file)
    if not ray.is_initialized():
        # in a job Ray finds its cluster by RAY_ADDRESS, else it starts one here
        ray.init(log_to_driver=False, configure_logging=False)

    def report(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    trials = run_sweep(config, report)
    page = write(config, trials, arguments.results or Path("build/sweeps") / config.name)
    sys.stdout.write(f"{table(config, trials)}\nwritten to {page}\n")
    best = ranked(trials)[0]
    if best.best is None:
        raise TrainingError(f"no trial of sweep {config.name} has a figure; see {page} for why")
