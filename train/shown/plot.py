"""The loss of a run as a picture: of training and of held-out rows, and the learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from train.shown.curves import EVALUATION, LOSS, RATE, by_curve, points

NAME = "loss.png"
_INCHES = (9.0, 5.0)
_DOTS_PER_INCH = 120
_RAW, _SMOOTH, _HELD_OUT, _RATE = "#b8c4d6", "#1f4e8c", "#c4570c", "#7a7a7a"
_SHARE = 0.05
"""Of the steps: over so many the thick line is a mean."""


def draw(lines: Iterable[Mapping[str, Any]], title: str, file: Path) -> None:
    """Write a PNG.

    Args:
        lines: Of the log.
        title: Above the picture.
        file: Where to.

    Raises:
        OSError: it cannot be written.
    """
    # no pyplot: it would choose a window system, and keep every figure
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    curves = by_curve(points(lines))
    figure = Figure(figsize=_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    losses = figure.add_subplot()
    steps, values = curves.get(LOSS, ([], []))
    width = max(1, round(len(values) * _SHARE))
    if width > 1:
        losses.plot(steps, values, color=_RAW, linewidth=0.8, label="training, each step")
    words = f"mean of {width} steps" if width > 1 else "each step"
    losses.plot(steps, means(values, width), color=_SMOOTH, label=f"training, {words}")
    if held_out := curves.get(f"{EVALUATION}eval_loss"):
        losses.plot(*held_out, color=_HELD_OUT, marker="o", label="held-out rows")
    losses.set(xlabel="optimizer step", ylabel="loss, nats per supervised token", title=title)
    losses.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.grid(alpha=0.3)
    rates = losses.twinx()
    rates.plot(*curves.get(RATE, ([], [])), color=_RATE, linestyle=":", label="learning rate")
    rates.set_ylabel("learning rate", color=_RATE)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(file, dpi=_DOTS_PER_INCH, format="png", metadata={"Software": None})


def means(values: list[float], width: int) -> list[float]:
    """Of each value and those before it, `width` at the most."""
    found: list[float] = []
    total = 0.0
    for at, value in enumerate(values):
        total += value - (values[at - width] if at >= width else 0.0)
        found.append(total / min(at + 1, width))
    return found
