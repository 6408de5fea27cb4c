"""`python -m rl train-rllib`: PPO of RLlib over the nodes of a Ray cluster, to a policy's file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from ironcliw.settings import load_settings
from rl.arguments import check_place, count, seed, write
from rl.live.base import packaged
from rl.parameters import load_tuned
from rl.regime import load_regime
from rl.rllib.numbers import RllibSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("--regime", type=Path, action="append", required=True, help="may be repeated")
    add("--out", type=Path, required=True, help="the policy's file (.npz)")
    add("--folder", default="build/rllib", help="path or URI of checkpoints; goes on with them")
    add("--iterations", type=count, default=200)
    add("--decisions", type=count, default=4000, help="of an iteration, over all runners")
    add("--days", type=count, default=1000, help="of each regime")
    add("--randomised", type=float, default=0.25, help="share of days from ranges of regimes")
    add("--runners", type=int, default=0, help="processes that simulate; 0: this one")
    add("--machines", action="store_true", help="learn when to buy early and give back, too")
    add("--on-spot", action="store_true", help="runners go to Spot machines alone")
    add("--learning-rate", type=float, default=1e-4)
    add("--hidden", type=count, default=64)
    add("--seed", type=seed, default=0)
    add("--base", type=Path, help="what is begun at: a file of `tune`; the shipped one without")
    add(
        "--validation", type=count, default=50, help="days a regime on which it is tried at the end"
    )


def run(arguments: argparse.Namespace) -> None:
    """Train, write the file, and say how it does on days of validation.

    Raises:
        SettingsError: a file or an option is wrong, or the folder holds another training.
        TrainingError: a loss is no number.
    """
    check_place(arguments.out)
    settings = RllibSettings(
        seed=arguments.seed,
        days=arguments.days,
        randomised=arguments.randomised,
        decisions=arguments.decisions,
        runners=arguments.runners,
        on_spot=arguments.on_spot,
        machines=arguments.machines,
        hidden=arguments.hidden,
        learning_rate=arguments.learning_rate,
        parameters=load_tuned(arguments.base or packaged()),
    )
    regimes = [load_regime(path) for path in arguments.regime]
    data = load_settings().bench.data
    import ray

    from rl.rllib.trainer import RllibTrainer, validation, write_policy

    begun = time.monotonic()
    if not ray.is_initialized():
        # in a job Ray finds its cluster by RAY_ADDRESS, else it starts one here
        ray.init(log_to_driver=False, configure_logging=False)
    trainer = RllibTrainer(regimes, settings, arguments.folder, data)

    def report(iteration: int, found: Mapping[str, float]) -> None:
        told = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        sys.stdout.write(f"iteration {iteration}: {told}\n")
        sys.stdout.flush()

    try:
        trainer.train(arguments.iterations, report)
        policy = write_policy(trainer, arguments.out)
    finally:
        trainer.stop()
    seconds = {"seconds": time.monotonic() - begun}
    write(arguments.out.with_suffix(".json"), json.dumps(seconds) + "\n")
    ratio = validation(policy, regimes, arguments.validation, data)
    sys.stdout.write(f"{arguments.out}: {ratio:.4f} of its base's cost in validation\n")
