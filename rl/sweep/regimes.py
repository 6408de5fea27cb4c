"""The regimes of a sweep, as they travel to its trials, whose folders and machines are others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ironcliw.errors import SettingsError
from rl.regime import Regime, load_regime, regime_of

REGIMES = "regimes"
"""Of a sweep's `fixed`: files, from the folder in which the sweep was started."""
_NONE = "the sweep names no regimes; set fixed.regimes to a list of files"


def sent(fixed: Mapping[str, Any]) -> dict[str, Any]:
    """What trials are told: each regime's table in place of its file.

    Raises:
        SettingsError: a file is absent or no regime.
    """
    found = dict(fixed)
    if isinstance(named := fixed.get(REGIMES), list):
        found[REGIMES] = [
            load_regime(Path(one)).model_dump(mode="json") if isinstance(one, str) else one
            for one in named
        ]
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
