"""`python -m rl`: `evaluate` compares policies, `tune` tunes the greedy one, `train` learns one.

What needs more than numpy has a module of its own, see `_MODULES`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ironcliw import __version__
from ironcliw.errors import IroncliwError, SettingsError
from ironcliw.settings import load_settings
from rl.arguments import check_place, count, seed, write
from rl.clairvoyant import ALL_LEVERS, Rest
from rl.evaluate import BASE, baselines, clairvoyance, days_of, evaluate, table
from rl.learning.command import add_train
from rl.neural import Learned
from rl.parameters import TUNED, load_parameters, load_tuned, policy_of
from rl.policy_file import load_policy
from rl.regime import load_regime

# Each has `add_arguments(parser)` and `run(arguments)`; what is heavy only the latter imports.
_MODULES = {
    "tune": ("rl.tune_command", "search the parameters of a policy"),
    "report": ("rl.report.command", "all policies on the days of all regimes, as a document"),
    "train-rllib": ("rl.rllib.command", "learn a policy by RLlib, on several nodes"),
    "sweep": ("rl.sweep.command", "learn with other numbers, and compare"),
}


def main(argv: Sequence[str]) -> int:
    """Run one command; returns 0, or 1 with a line on stderr if it could not be."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except IroncliwError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _evaluate(arguments: argparse.Namespace) -> None:
    check_place(arguments.json)
    regime = load_regime(arguments.regime)
    tuned = load_parameters(arguments.parameters)
    data = arguments.data or load_settings().bench.data
    days = days_of(regime, arguments.seed, arguments.split, arguments.days, data)
    makers = baselines(tuned)
    starts: list[Rest] = []
    for path in arguments.policy:
        policy = load_policy(path)
        starts.append(policy)
        makers[f"learned: {path.stem}"] = partial(Learned, policy, name=f"learned: {path.stem}")
    for path in arguments.tuned:
        parameters = load_tuned(path)
        starts.append(parameters)
        makers[path.stem] = partial(policy_of, parameters, path.stem)
    if arguments.against not in makers:
        raise SettingsError(
            f"--against {arguments.against!r} is none of the policies: {', '.join(makers)}"
        )
    found = evaluate(days, makers, base=arguments.against, report=_tell)
    page: dict[str, Any] = {
        "regime": regime.name,
        "digest": regime.digest(),
        "release": __version__,
        "split": arguments.split,
        "seed": arguments.seed,
        "days": len(days),
        "base": arguments.against,
        "policies": found,
    }
    if arguments.clairvoyant:
        some = days[: arguments.clairvoyant]
        levers = frozenset(arguments.lever) or ALL_LEVERS
        page["clairvoyant"] = clairvoyance(
            some, tuned, arguments.evaluations, levers=levers, starts=starts
        )
    if arguments.json:
        write(arguments.json, json.dumps(page, indent=1) + "\n")
    sys.stdout.write(f"{regime.name}, {len(days)} days of {arguments.split}\n{table(found)}\n")
    if "clairvoyant" in page:
        known = page["clairvoyant"]
        sys.stdout.write(
            f"clairvoyant, {known['days']} days: {known['ratio']['mean']:.3f} of the cost of "
            f"{BASE}; nothing goes below {known['bound_ratio']['mean']:.3f}\n"
        )


def _tell(line: str) -> None:
    """Of the progress, beside what is found."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rl", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("evaluate", help="all baselines on a regime's days")
    one.set_defaults(run=_evaluate)
    one.add_argument("--regime", type=Path, required=True, help="a TOML file, see rl/regimes")
    one.add_argument("--days", type=count, default=100)
    one.add_argument("--seed", type=seed, default=0)
    one.add_argument("--split", choices=("train", "validation", "test"), default="test")
    one.add_argument("--json", type=Path, help="where the figures go, each day's cost too")
    one.add_argument(
        "--policy", type=Path, action="append", default=[], help="a learned one; may be repeated"
    )
    one.add_argument(
        "--tuned", type=Path, action="append", default=[], help="a file of `tune`; may be repeated"
    )
    one.add_argument(
        "--against",
        default=BASE,
        metavar="NAME",
        help="whose cost is 1; of a --tuned file its stem",
    )
    one.add_argument(
        "--lever", choices=sorted(ALL_LEVERS), action="append", default=[],
        help="all that the search for the clairvoyant may change; may be repeated",
    )  # fmt: skip
    one.add_argument("--parameters", type=Path, default=TUNED, help="of the tuned greedy policy")
    one.add_argument("--data", type=Path, help="the data folder; the setting bench.data without it")
    one.add_argument(
        "--clairvoyant",
        type=int,
        default=0,
        metavar="DAYS",
        help="search so many, from the best of all given",
    )
    one.add_argument("--evaluations", type=count, default=400, help="of that search, a day")
    for name, (module, text) in _MODULES.items():
        command = importlib.import_module(module)
        more = commands.add_parser(name, help=text)
        more.set_defaults(run=command.run)
        command.add_arguments(more)
    add_train(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
