"""What a sweep names by files, as it travels to trials, whose folders and machines are others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ironcliw.errors import SettingsError
from rl.live.base import packaged
from rl.parameters import Parameters, kind_of, load_tuned, parameters_of
from rl.regime import Regime, load_regime, regime_of

REGIMES = "regimes"
"""Of a sweep's `fixed`: files, from the folder in which the sweep was started."""
BASE = "base"
"""Likewise: a file of `python -m rl tune`; what `python -m rl train` begins at without it."""
NAMED = (REGIMES, BASE)
_NONE = "the sweep names no regimes; set fixed.regimes to a list of files"


def sent(fixed: Mapping[str, Any]) -> dict[str, Any]:
    """What trials are told: a table in place of each file.

    Raises:
        SettingsError: a file is absent or no regime, or the base's is none of `tune`.
    """
    found = dict(fixed)
    if isinstance(named := fixed.get(REGIMES), list):
        found[REGIMES] = [
            load_regime(Path(one)).model_dump(mode="json") if isinstance(one, str) else one
            for one in named
        ]
    if isinstance(base := fixed.get(BASE), str):
        parameters = load_tuned(Path(base))
        found[BASE] = {"policy": kind_of(parameters), "parameters": asdict(parameters)}
    return found


def received(values: Mapping[str, Any]) -> list[Regime]:
    """The regimes of a trial's values: tables, or files where no sweep has sent them.

    Raises:
        SettingsError: there is none, or one of them is no regime.
    """
    given: Sequence[str | dict[str, Any]] = values.get(REGIMES) or ()
    if not given:
        raise SettingsError(_NONE)
    return [
        load_regime(Path(one)) if isinstance(one, str) else regime_of(one, "a regime of the sweep")
        for one in given
    ]


def received_base(values: Mapping[str, Any]) -> Parameters:
    """The base of a trial's values: a table, a file where no sweep has sent it, or the shipped one.

    Raises:
        SettingsError: it is none.
    """
    given = values.get(BASE)
    if given is None:
        return load_tuned(packaged())
    if isinstance(given, str):
        return load_tuned(Path(given))
    if not (isinstance(given, Mapping) and {"policy", "parameters"} <= set(given)):
        raise SettingsError(f"the sweep's base is {given!r}; set fixed.base to a file of `tune`")
    return parameters_of(given["policy"], given["parameters"], "the sweep's base")
