"""What each evaluation of a sweep has found, told while the sweep goes on.

Ray Tune keeps its callbacks with a sweep, and a sweep that is resumed gets those of the process
before: this one asks its own process whom to tell.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ray import tune

from train.sweep.points import trial_name
from train.sweep.trial import EPOCH

_listeners: list[Callable[[str], None]] = []


@contextlib.contextmanager
def telling(report: Callable[[str], None]) -> Iterator[None]:
    """Tell `report` while this is open."""
    _listeners.append(report)
    try:
        yield
    finally:
        _listeners.remove(report)


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
        for tell in _listeners:
            tell(f"{name}: epoch {result[EPOCH]}, {self._metric} {result[self._metric]:.4f}")
