"""What each evaluation of a sweep has found, told while it goes on, and which trials have ended.

Ray Tune keeps its callbacks with a sweep, and a sweep that is resumed gets those of the process
before: this one asks its own process whom to tell.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ray import tune

from train.sweep.points import trial_name
from train.sweep.trial import EPOCH

_listeners: list[tuple[Callable[[str], None], dict[str, str]]] = []


@contextlib.contextmanager
def telling(report: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Tell `report` while this is open.

    Yields:
        Filled when the sweep returns: the names of the trials that have ended, each with the error
        that it ended by, else "".
    """
    listener = (report, dict[str, str]())
    _listeners.append(listener)
    try:
        yield listener[1]
    finally:
        _listeners.remove(listener)


class Teller(tune.Callback):
    """Says what each evaluation has found.

    Args:
        metric: That is compared.
    """

    def __init__(self, metric: str) -> None:
        self._metric = metric

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        if EPOCH not in result or self._metric not in result:
            return
        name = trial_name(trial.config["point"])
        for tell, _ends in _listeners:
            tell(f"{name}: epoch {result[EPOCH]}, {self._metric} {result[self._metric]:.4f}")

    def on_experiment_end(self, trials: list[Any], **_: Any) -> None:
        for _tell, ends in _listeners:
            ends |= ended(trials)


def ended(trials: Sequence[Any]) -> dict[str, str]:
    """Names of those of Ray Tune's trials that have ended, with their error or ""."""
    return {
        trial_name(trial.config["point"]): _error(trial) for trial in trials if trial.is_finished()
    }


def _error(trial: Any) -> str:
    # one that went on after an error still has its text
    if trial.status != "ERROR":
        return ""
    return str(trial.get_pickled_error() or trial.get_error() or "no error is told; see Ray's logs")
