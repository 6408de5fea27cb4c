"""A cascade from files of labelled texts: its steps are asked, fitted and measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ironcliw.errors import DataError
from train.data.split import is_held_out
from train.heads.cascade_fit import (
    FittedStep,
    Measured,
    Said,
    fit_cascade,
    measure_cascade,
    milliseconds,
    settings_lines,
)
from train.heads.make import one_hot
from train.heads.texts import read_texts

Ask = Callable[[str, Sequence[str], Sequence[str]], npt.NDArray[np.float64]]
"""Model, texts and labels to probabilities [N, L]; zeros where it refuses to choose."""
Time = Callable[[str, Sequence[str], Sequence[str]], float]
"""Milliseconds of one text."""

MEASURED_SHARE = 0.5
_FEWEST = 20
_TIMED = 10


@dataclass(frozen=True, slots=True)
class CascadePlan:
    """What is asked for.

    Attributes:
        name: Of the cascade.
        steps: Models, the cheapest first.
        rows: Files of `text` and `label`.
        labels: To choose from; none: those of the rows.
        loss: Share of the texts that may be wrong beyond the last step's.
    """

    name: str
    steps: tuple[str, ...]
    rows: tuple[str, ...]
    labels: tuple[str, ...]
    loss: float


@dataclass(frozen=True, slots=True)
class FittedCascade:
    """The numbers of a cascade, and what was measured on texts that they were not fitted to.

    Attributes:
        name: Of it.
        steps: Their numbers.
        measured: What each does.
        accuracy: Of the whole.
        milliseconds: Of a text by the whole, and by the last step alone.
        texts: How many were measured on.
        step_milliseconds: Of a text by each step.
    """

    name: str
    steps: Sequence[FittedStep]
    measured: Sequence[Measured]
    accuracy: float
    milliseconds: tuple[float, float]
    texts: int
    step_milliseconds: Sequence[float]

    def settings_lines(self) -> list[str]:
        """TOML to paste."""
        return settings_lines(self.name, self.steps)

    def summary(self) -> str:
        """The whole in a sentence."""
        whole, last = self.milliseconds
        return (
            f"{self.texts} texts: {self.accuracy:.1%} right, {whole:.1f} ms a text; the last step "
            f"alone {self.measured[-1].alone:.1%}, {last:.1f} ms"
        )

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heading and rows."""
        heading = ["step", "answers", "right", "alone right", "ms", "confidence", "temperature"]
        rows = []
        for at, (step, done) in enumerate(zip(self.steps, self.measured, strict=True)):
            confidence = "-" if step.confidence is None else f"{step.confidence:g}"
            rows.append(
                [
                    step.model,
                    f"{done.share:.1%}",
                    "-" if math.isnan(done.accuracy) else f"{done.accuracy:.1%}",
                    f"{done.alone:.1%}",
                    f"{self.step_milliseconds[at]:.1f}",
                    "the rest" if at == len(self.steps) - 1 else confidence,
                    f"{step.temperature:g}",
                ]
            )
        return heading, rows

    def as_json(self) -> dict[str, Any]:
        """Everything; null where a step answers nothing."""
        steps = [
            {
                "model": step.model,
                "temperature": step.temperature,
                "confidence": None if at == len(self.steps) - 1 else step.confidence,
                "share": done.share,
                "accuracy": None if math.isnan(done.accuracy) else done.accuracy,
                "alone": done.alone,
                "milliseconds": self.step_milliseconds[at],
            }
            for at, (step, done) in enumerate(zip(self.steps, self.measured, strict=True))
        ]
        return {
            "name": self.name,
            "texts": self.texts,
            "accuracy": self.accuracy,
            "milliseconds": self.milliseconds[0],
            "last_step": {
                "accuracy": self.measured[-1].alone,
                "milliseconds": self.milliseconds[1],
            },
            "steps": steps,
            "settings": "\n".join(self.settings_lines()) + "\n",
        }


def make_cascade(plan: CascadePlan, ask: Ask, time: Time) -> FittedCascade:
    """Read the texts, ask each step for all of them, fit on one half and measure on the other.

    Args:
        plan: Of the cascade.
        ask: Asks a step.
        time: Takes the time of a step.

    Raises:
        DataError: the rows are broken, too few, or have a label that is not among `labels`.
        IroncliwError: as `ask`.
    """
    rows = read_texts(plan.rows, labelled=True)
    labels = plan.labels or tuple(sorted({row.label for row in rows if row.label is not None}))
    if len(labels) < 2:
        raise DataError(
            f"the rows have the labels {list(labels)}; two are the fewest to tell apart"
        )
    answers = one_hot(rows, labels).argmax(1)
    side = np.array([is_held_out(row.key, MEASURED_SHARE) for row in rows], np.bool_)
    if min(side.sum(), (~side).sum()) < _FEWEST:
        raise DataError(
            f"{len(rows)} texts, of which {int(side.sum())} would be measured on and "
            f"{int((~side).sum())} fitted to; {_FEWEST} of each are the fewest: give more"
        )
    texts = [row.text for row in rows]
    said = [
        Said(model, ask(model, texts, labels), time(model, texts[:_TIMED], labels))
        for model in plan.steps
    ]
    fitted = fit_cascade([each.part(~side) for each in said], answers[~side], plan.loss)
    others = [each.part(side) for each in said]
    measured, accuracy = measure_cascade(others, fitted, answers[side])
    whole = milliseconds(others, fitted, measured)
    last = said[-1].milliseconds
    times = [each.milliseconds for each in said]
    return FittedCascade(
        plan.name, fitted, measured, accuracy, (whole, last), int(side.sum()), times
    )
