"""The curves of a run, from its log alone: a resumed run has those of an undisturbed one. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from train.evaluation.report import measures_of

LOSS, RATE, NORM = "train/loss", "train/learning_rate", "train/gradient_norm"
EVALUATION = "eval/"
_OF_STEPS = {LOSS: "loss", NORM: "norm", RATE: "learning_rate"}


@dataclass(frozen=True, slots=True)
class Point:
    """A number at a step.

    Attributes:
        curve: Such as "train/loss" or "eval/eval_loss".
        step: Optimizer steps done.
        value: Finite.
    """

    curve: str
    step: int
    value: float


def points(lines: Iterable[Mapping[str, Any]]) -> Iterator[Point]:
    """All numbers of a log that can be drawn, in its order."""
    for line in lines:
        names = _OF_STEPS
        if line.get("event") == "evaluation":
            names = {f"{EVALUATION}{name}": name for name in measures_of(line)}
        elif "event" in line:
            continue
        for curve, name in names.items():
            if name in line and math.isfinite(line[name]):
                yield Point(curve, int(line["step"]), float(line[name]))


def by_curve(found: Iterable[Point]) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of each curve."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for point in found:
        steps, values = curves.setdefault(point.curve, ([], []))
        steps.append(point.step)
        values.append(point.value)
    return curves
