"""What a sweep was begun with. The same command goes on with it; another one is refused.

Trials are ranked together, so all of them must have the same rows and the same weights to begin
with; and a trial that was interrupted ends with the bits of an undisturbed one only with the
threads that it began with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ironcliw.errors import SettingsError
from train.run_files import RunFiles
from train.sweep.config import SweepConfig

SWEEP = "sweep.json"
_BEGUN = "begun"
_FREE = frozenset({"storage"})
"""Keys of a sweep that may differ: its folder may have been moved."""
_WORDS = {
    "data": "the rows that are trained on",
    "held_out": "the held-out rows",
    "model": "the model's weights",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Begun:
    """What the numbers of all trials depend on, besides the configuration.

    Attributes:
        data: Digest of the rows that are trained on.
        held_out: Of those that are measured on.
        model: Of the weights.
        threads: Of each trial.
    """

    data: str
    held_out: str
    model: str
    threads: int


def check_begun(config: SweepConfig, files: RunFiles) -> None:
    """Compare a sweep with what its folder holds.

    Raises:
        SettingsError: a sweep of this name was begun that is another one.
    """
    before = files.read(SWEEP)
    if before is None:
        return
    now = config.model_dump(mode="json")
    changed = sorted(key for key in now if key not in _FREE and before.get(key) != now[key])
    if not changed:
        return
    why = ""
    if changed == ["concurrent"]:
        why = f" ({before.get('concurrent')}: it decides the threads of a trial, which round)"
    raise SettingsError(
        f"sweep {config.name} was begun with other values of {', '.join(changed)}{why} "
        f"({files.uri}); give this one a name of its own"
    )


def begin(config: SweepConfig, files: RunFiles, now: Begun, cores: int) -> Begun:
    """Write down what a sweep begins with, or compare it with what it was begun with.

    Args:
        config: Of the sweep.
        files: Of its folder.
        now: What there is now, and the threads that a sweep begun here would have.
        cores: That a trial can have here.

    Returns:
        What holds for all trials: the threads are those of the beginning.

    Raises:
        SettingsError: rows or weights have other contents than at the beginning, or there are too
            few cores for its threads.
    """
    before = _read(files.read(SWEEP) or {})
    begun = now if before is None else before
    changed = [words for key, words in _WORDS.items() if getattr(begun, key) != getattr(now, key)]
    if changed:
        raise SettingsError(
            f"sweep {config.name} was begun with other contents of {' and '.join(changed)} "
            f"({files.uri}): its trials could not be compared; put them back, or give this one a "
            "name of its own"
        )
    if begun.threads > cores:
        raise SettingsError(
            f"sweep {config.name} was begun with {begun.threads} threads a trial ({files.uri}), "
            f"and here are {cores} cores: fewer threads would round differently; resume it on a "
            "machine with as many, or give this one a name of its own"
        )
    files.write(SWEEP, {**config.model_dump(mode="json"), _BEGUN: dataclasses.asdict(begun)})
    return begun


def _read(held: Mapping[str, Any]) -> Begun | None:
    """None: nothing was begun, or by a release that did not write it down."""
    given = held.get(_BEGUN)
    return None if given is None else Begun(**given)
