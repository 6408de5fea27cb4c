"""A sweep's results: a table, the same for programs, and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rl.sweep.config import SweepConfig
from rl.sweep.run import Trial

_BEST, _OTHER = "#c4570c", "#7a8699"


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best first; those without a figure last."""
    return sorted(trials, key=lambda one: (one.best is None, one.best or 0.0))


def table(config: SweepConfig, trials: Sequence[Trial]) -> str:
    """Of Markdown."""
    names = list(config.space)
    lines = [
        f"# Sweep {config.name}",
        "",
        (
            f"{len(trials)} trials of {config.rounds} rounds; the ratio is the cost on days of "
            "validation by the base's, the best of the rounds."
        ),
        "",
        "| " + " | ".join(names) + " | ratio | rounds | state |",
        "|---|---|---|" + "---|" * len(names),
    ]
    for one in ranked(trials):
        values = [_told(one.point[name]) for name in names]
        best = "" if one.best is None else f"{one.best:.4f}"
        state = f"{one.state}: {one.error}" if one.error else one.state
        lines.append(f"| {' | '.join(values)} | {best} | {max(one.ratios, default=0)} | {state} |")
    return "\n".join(lines) + "\n"


def write(config: SweepConfig, trials: Sequence[Trial], folder: Path) -> Path:
    """`results.md`, `results.json` and `results.svg` in a folder; returns the first."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "results.md"
    page.write_text(table(config, trials), encoding="utf-8")
    whole = {"name": config.name, "trials": [asdict(one) for one in ranked(trials)]}
    (folder / "results.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    draw(config, trials, folder / "results.svg")
    return page


def draw(config: SweepConfig, trials: Sequence[Trial], file: Path) -> None:
    """The ratio over the rounds, and each trial's best over each number."""
    # no pyplot: it would choose a window system, and keep every figure
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    order = ranked(trials)
    with matplotlib.rc_context({"svg.hashsalt": "ironcliw", "svg.fonttype": "none"}):
        places = 1 + len(config.space)
        figure = Figure(figsize=(3.6 * places, 3.2), layout="constrained")
        FigureCanvasSVG(figure)
        axes = list(figure.subplots(1, places, squeeze=False)[0])
        for rank, one in enumerate(order):
            colour = _OTHER if rank else _BEST
            rounds = sorted(one.ratios)
            axes[0].plot(rounds, [one.ratios[each] for each in rounds], color=colour, marker=".")
            for axis, name in zip(axes[1:], config.space, strict=True):
                _dot(axis, one, name, colour)
        axes[0].set(xlabel="round", ylabel="cost by the tuned greedy's")
        for axis, (name, values) in zip(axes[1:], config.space.items(), strict=True):
            axis.set_xlabel(name)
            if values.log_uniform is not None:
                axis.set_xscale("log")
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _dot(axis: Any, one: Trial, name: str, colour: str) -> None:
    if one.best is not None:
        value = one.point[name]
        # words and truth values stand beside each other, not on a line of numbers
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        axis.plot(value if is_number else str(value), one.best, "o", color=colour)


def _told(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
