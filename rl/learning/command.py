"""`python -m rl train`: a policy file from regimes and a seed."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ironcliw.settings import load_settings
from rl.arguments import check_place, seed, write
from rl.learning.plan import Training
from rl.live.base import packaged
from rl.parameters import load_tuned
from rl.policy_file import save_policy
from rl.regime import load_regime

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

QUICK: dict[str, Any] = {
    "decisions": 200,
    "validation": 4,
    "confirmation": 8,
    "margins": (0.3,),
    "shrinks": (1.0,),
}
"""For finding a broken path; of what it finds nothing is to be expected."""
REGIMES = tuple(
    Path(__file__).resolve().parent.with_name("regimes") / f"{name}.toml"
    for name in ("light", "busy", "high_hazard")
)


def add_train(commands: Commands) -> None:
    """Add the command to a parser's."""
    parser = commands.add_parser("train", help="learn a policy from regimes, into a file")
    parser.add_argument(
        "--regime",
        type=Path,
        action="append",
        help="may be repeated; the three of training without",
    )
    parser.add_argument("--seed", type=seed, help="of days, weights and choices")
    parser.add_argument("--out", type=Path, required=True, help="the policy file, an .npz")
    parser.add_argument("--config", type=Path, help="TOML with a table [training]")
    parser.add_argument("--quick", action="store_true", help="little of all: does it work at all?")
    parser.add_argument("--minutes", type=float, help="after which an end is made")
    parser.add_argument(
        "--base", type=Path, help="what is begun at: a file of `tune`; the shipped one without"
    )
    parser.set_defaults(run=run_train)


def run_train(arguments: argparse.Namespace) -> None:
    """Learn, with lines of progress on stdout.

    Raises:
        SettingsError: a file cannot be used, or a regime is held out.
    """
    check_place(arguments.out)
    plan = Training.load(arguments.config) if arguments.config else Training()
    if arguments.quick:
        plan = replace(plan, **QUICK)
    if arguments.seed is not None:
        plan = replace(plan, seed=arguments.seed)
    if arguments.minutes is not None:
        plan = replace(plan, minutes=arguments.minutes)
    regimes = [load_regime(path) for path in arguments.regime or REGIMES]
    parameters = load_tuned(arguments.base or packaged())
    # torch takes seconds to import, and no other command needs it
    from rl.learning.train import train

    begun = time.monotonic()
    policy = train(regimes, parameters, plan, report=_say, data=load_settings().bench.data)
    saved = save_policy(arguments.out, policy)
    # beside the file, whose bytes depend on the seed alone; `rl.report` tells it
    seconds = {"seconds": round(time.monotonic() - begun, 1)}
    write(arguments.out.with_suffix(".json"), json.dumps(seconds) + "\n")
    _say(f"{arguments.out}: {saved.digest}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
