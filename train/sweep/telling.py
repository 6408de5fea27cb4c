"""What each evaluation of a sweep has found, told while it goes on, and which trials have ended.

Ray Tune keeps its callbacks with a sweep, and a sweep that is resumed gets those of the process
before: this one asks its own process whom to tell.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ray import tune

from train.sweep.points import trial_name
from train.sweep.trial import EPOCH


@dataclasses.dataclass(slots=True)
class _Listener:
    """Who is told, and the names of the trials that have ended, with their error or ""."""

    report: Callable[[str], None]
    ends: dict[str, str] = dataclasses.field(default_factory=dict)
    has_stepped: bool = False

    def look(self, trials: Sequence[Any]) -> None:
        """Take in which trials have ended; one that has stays so."""
        for trial in trials:
            if trial.is_finished():
                name = trial_name(trial.config["point"])
                if name not in self.ends:
                    self.ends[name] = _error(trial)


_listeners: list[_Listener] = []


@contextlib.contextmanager
def telling(report: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Tell `report` while this is open.

    Yields:
        Filled while the sweep goes on: the names of the trials that have ended, each with the error
        that it ended by, else "".
    """
    listener = _Listener(report)
    _listeners.append(listener)
    try:
        yield listener.ends
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
        for listener in _listeners:
            listener.report(
                f"{name}: epoch {result[EPOCH]}, {self._metric} {result[self._metric]:.4f}"
            )

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        for listener in _listeners:
            listener.has_stepped = True
            listener.look(trials)

    def on_experiment_end(self, trials: list[Any], **_: Any) -> None:
        # before this Tune has ended all that went on, after Ctrl-C too; only where there was
        # nothing left to do is it as it seems
        for listener in _listeners:
            if not listener.has_stepped:
                listener.look(trials)


def _error(trial: Any) -> str:
    # one that went on after an error still has its text
    if trial.status != "ERROR":
        return ""
    return str(trial.get_pickled_error() or trial.get_error() or "no error is told; see Ray's logs")
