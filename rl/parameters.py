"""The tuned parameters of the expected-cost policy, and what they were tuned on."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from ironcliw.errors import SettingsError
from rl.greedy import GreedyParameters

TUNED = Path(__file__).with_name("tuned_greedy.toml")


def load_parameters(path: Path = TUNED) -> GreedyParameters:
    """Parameters from a file.

    Raises:
        SettingsError: the file is absent, no TOML, has no table `parameters`, an unknown name or a
            value that is no number above 0.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror}); write one by `python -m rl tune --out`"
        ) from error
    except ValueError as error:  # tomllib.TOMLDecodeError and UnicodeDecodeError
        raise SettingsError(f"{path} is not TOML: {error}") from error
    values = table.get("parameters")
    if not isinstance(values, dict):
        raise SettingsError(f"{path} has no table [parameters]; write one by `python -m rl tune`")
    return GreedyParameters.of(values)


def of_the_cloud(parameters: GreedyParameters, idle_seconds: float) -> GreedyParameters:
    """For a system that gives idle machines back by itself, so that a purchase pays for it.

    Args:
        parameters: Tuned where the policy gives them back.
        idle_seconds: After which the system does.
    """
    return replace(parameters, idle_seconds=idle_seconds, tail_seconds=idle_seconds)


def written(parameters: GreedyParameters, tuned_on: Mapping[str, str], command: str) -> str:
    """A file's text.

    Args:
        parameters: To keep.
        tuned_on: Digest of each regime, by its name.
        command: That finds them again.
    """
    lines = [f"# {command}", "[tuned_on]"]
    lines += [f'{name} = "{digest}"' for name, digest in sorted(tuned_on.items())]
    lines += ["", "[parameters]"]
    lines += [f"{name} = {value:.4g}" for name, value in asdict(parameters).items()]
    # TOML tells integers from floats, and these are floats
    return (
        "\n".join(f"{line}.0" if line.rpartition(" = ")[2].isdigit() else line for line in lines)
        + "\n"
    )
