"""Tuned parameters of the expected-cost and the queue-aware policy, and what they were tuned on."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ironcliw.errors import SettingsError
from rl.greedy import Greedy, GreedyParameters
from rl.queue_aware import NAME, QueueAware
from rl.queue_parameters import QueueParameters

TUNED = Path(__file__).with_name("tuned_greedy.toml")
POLICIES = ("greedy", "queue-aware")
Parameters = GreedyParameters | QueueParameters
Base = Greedy | QueueAware
"""A policy with costs, from which a learned one starts."""


def policy_of(parameters: Parameters, name: str | None = None) -> Base:
    """The policy whose parameters they are.

    Args:
        parameters: Of either.
        name: In reports; its own without it.
    """
    if isinstance(parameters, GreedyParameters):
        return Greedy(parameters, name=name or "greedy")
    return QueueAware(parameters, name=name or NAME)


def kind_of(parameters: Parameters) -> str:
    """Which of `POLICIES` they are of."""
    return "queue-aware" if isinstance(parameters, QueueParameters) else "greedy"


def parameters_of(kind: str, values: Mapping[str, float], where: str) -> Parameters:
    """From a table, such as a file's.

    Args:
        kind: Which of `POLICIES` they are of.
        values: By name.
        where: They are from, for the error.

    Raises:
        SettingsError: there is no such policy, an unknown name, or a value that is no number
            above 0.
    """
    if kind not in POLICIES:
        raise SettingsError(
            f"{where} is of a policy {kind!r}; it must be one of {', '.join(POLICIES)}"
        )
    if kind == "queue-aware":
        return QueueParameters.of(values)
    return GreedyParameters.of(values)


def load_parameters(path: Path = TUNED) -> GreedyParameters:
    """Parameters of the expected-cost policy from a file.

    Raises:
        SettingsError: the file is absent, no TOML, of another policy, has no table `parameters`, an
            unknown name or a value that is no number above 0.
    """
    found = load_tuned(path)
    if not isinstance(found, GreedyParameters):
        raise SettingsError(f"{path} is of the queue-aware policy; give one of the greedy policy")
    return found


def load_tuned(path: Path) -> Parameters:
    """Parameters of whichever policy a file is of.

    Raises:
        SettingsError: see `load_parameters`; or it is of no policy that is tuned.
    """
    table = _table(path)
    values, policy = table.get("parameters"), table.get("policy", "greedy")
    if policy not in POLICIES:
        values = {}  # told first, since the rest may be different there
    if not isinstance(values, dict):
        raise SettingsError(f"{path} has no table [parameters]; write one by `python -m rl tune`")
    return parameters_of(policy, values, str(path))


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror}); write one by `python -m rl tune --out`"
        ) from error
    except ValueError as error:  # tomllib.TOMLDecodeError and UnicodeDecodeError
        raise SettingsError(f"{path} is not TOML: {error}") from error


def of_the_cloud(parameters: Parameters, idle_seconds: float) -> Parameters:
    """For a system that gives idle machines back by itself, so that a purchase pays for it.

    Args:
        parameters: Tuned where the policy gives them back.
        idle_seconds: After which the system does.
    """
    return replace(parameters, idle_seconds=idle_seconds, tail_seconds=idle_seconds)


def written(parameters: Parameters, tuned_on: Mapping[str, str], command: str) -> str:
    """A file's text.

    Args:
        parameters: To keep.
        tuned_on: Digest of each regime, by its name.
        command: That finds them again.
    """
    lines = [f"# {command}", f'policy = "{kind_of(parameters)}"', "", "[tuned_on]"]
    lines += [f'{name} = "{digest}"' for name, digest in sorted(tuned_on.items())]
    lines += ["", "[parameters]"]
    lines += [f"{name} = {value:.4g}" for name, value in asdict(parameters).items()]
    # TOML tells integers from floats, and these are floats
    return (
        "\n".join(f"{line}.0" if line.rpartition(" = ")[2].isdigit() else line for line in lines)
        + "\n"
    )
