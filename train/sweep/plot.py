"""A sweep as a picture: the measure over the epochs, and at the end over each key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.sweep.config import SweepConfig
from train.sweep.results import Trial, best

NAME = "sweep.png"
_INCHES = (4.2, 3.6)
_DOTS_PER_INCH = 120
_BEST, _FINISHED, _EARLY = "#c4570c", "#1f4e8c", "#b8c4d6"


def draw(config: SweepConfig, trials: Sequence[Trial], file: Path) -> None:
    """Write a PNG.

    Args:
        config: Of the sweep.
        trials: Of it.
        file: Where to.

    Raises:
        OSError: it cannot be written.
    """
    # no pyplot: it would choose a window system, and keep every figure
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    winner = best(config, trials)
    places = 1 + len(config.space)
    figure = Figure(figsize=(_INCHES[0] * places, _INCHES[1]), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, places, squeeze=False)[0])
    _curves(axes[0], config, trials, winner)
    for axis, key in zip(axes[1:], config.space, strict=True):
        _over(axis, key, config, trials, winner)
    figure.suptitle(config.name)
    figure.savefig(file, dpi=_DOTS_PER_INCH, format="png", metadata={"Software": None})


def _curves(axis: Any, config: SweepConfig, trials: Sequence[Trial], winner: Trial | None) -> None:
    for trial in trials:
        seen = [line for line in trial.history if _is_number(line.get(config.metric))]
        epochs = [line["epoch"] for line in seen]
        values = [line[config.metric] for line in seen]
        axis.plot(epochs, values, color=_colour(trial, winner), marker="o", markersize=3)
    axis.set(xlabel="epoch", ylabel=config.metric)
    axis.grid(alpha=0.3)


def _over(
    axis: Any, key: str, config: SweepConfig, trials: Sequence[Trial], winner: Trial | None
) -> None:
    for trial in trials:
        value = trial.value(config.metric)
        if math.isfinite(value):
            at = trial.point[key]
            # words and truth values stand beside each other, not on a line of numbers
            shown = at if isinstance(at, int | float) and not isinstance(at, bool) else str(at)
            axis.scatter([shown], [value], color=_colour(trial, winner))
    if config.space[key].log_uniform is not None:
        axis.set_xscale("log")
    axis.set(xlabel=key, ylabel=config.metric)
    axis.grid(alpha=0.3)


def _colour(trial: Trial, winner: Trial | None) -> str:
    if winner is not None and trial.name == winner.name:
        return _BEST
    return _FINISHED if trial.state == "finished" else _EARLY


def _is_number(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)
