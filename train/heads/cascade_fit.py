"""The numbers of a cascade from what its steps say of labelled texts. Pure.

Shapes: N texts, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from train.heads.fit import fit_temperature

Floats = npt.NDArray[np.float64]
_DIGITS = 4
_LEAST = 1e-300
_SLACK = 1e-9
"""Of sums of floats: a share that is lost exactly is lost no more."""


@dataclass(frozen=True, slots=True)
class Said:
    """What one step says of N texts.

    Attributes:
        model: Of the step.
        probabilities: [N, L]; a row of zeros where it refuses to choose.
        milliseconds: Of one text, asked alone.
    """

    model: str
    probabilities: Floats
    milliseconds: float = 0.0

    def part(self, chosen: npt.NDArray[np.bool_]) -> Said:
        """Of some of the texts."""
        return replace(self, probabilities=self.probabilities[chosen])


@dataclass(frozen=True, slots=True)
class FittedStep:
    """A step's numbers.

    Attributes:
        model: Of the step.
        temperature: Of its probabilities.
        confidence: From which its answers end the cascade; None: none would do, so that it only
            costs time. The last step's is not looked at.
    """

    model: str
    temperature: float
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a step does in the cascade.

    Attributes:
        model: Of the step.
        share: Of all texts that it answers.
        accuracy: Of those; NaN where there are none.
        alone: Of its likeliest labels for all texts.
    """

    model: str
    share: float
    accuracy: float
    alone: float


def fit_cascade(
    steps: Sequence[Said], answers: npt.NDArray[np.int64], loss: float
) -> list[FittedStep]:
    """Temperatures by likelihood, then the lowest confidences that keep the last step's accuracy.

    One step after the other gets the lowest confidence with which the cascade up to it, and the
    last step for the rest, is wrong for at most `loss` of the texts more than the last step alone.

    Args:
        steps: In the order of the cascade; two or more.
        answers: [N], the right label of each text.
        loss: Share of the texts, from 0 to 1.
    """
    temperatures = [temperature_of(step.probabilities, answers) for step in steps]
    surest = [_surest(each, t) for each, t in zip(steps, temperatures, strict=True)]
    last = surest[-1][0] == answers
    least = float(last.mean()) - loss
    right, is_open = last.copy(), np.ones(len(answers), np.bool_)
    fitted = []
    for step, temperature, (chosen, sure) in zip(
        steps[:-1], temperatures[:-1], surest[:-1], strict=True
    ):
        confidence = _lowest(sure, chosen == answers, right, is_open, least)
        fitted.append(FittedStep(step.model, temperature, confidence))
        if confidence is not None:
            ends = is_open & (sure >= confidence)
            right[ends] = (chosen == answers)[ends]
            is_open &= ~ends
    return [*fitted, FittedStep(steps[-1].model, temperatures[-1], 1.0)]


def measure_cascade(
    steps: Sequence[Said], fitted: Sequence[FittedStep], answers: npt.NDArray[np.int64]
) -> tuple[list[Measured], float]:
    """What each step does, and the accuracy of the whole, on texts that nothing was fitted to."""
    is_open = np.ones(len(answers), np.bool_)
    right = np.zeros(len(answers), np.bool_)
    found = []
    for number, (step, numbers) in enumerate(zip(steps, fitted, strict=True)):
        chosen, sure = _surest(step, numbers.temperature)
        is_last = number == len(steps) - 1
        least = math.inf if numbers.confidence is None else numbers.confidence
        ends = is_open if is_last else is_open & (sure >= least)
        hits = chosen == answers
        right[ends] = hits[ends]
        accuracy = float(hits[ends].mean()) if ends.any() else math.nan
        found.append(Measured(step.model, float(ends.mean()), accuracy, float(hits.mean())))
        is_open = is_open & ~ends
    return found, float(right.mean())


def milliseconds(
    steps: Sequence[Said], fitted: Sequence[FittedStep], done: list[Measured]
) -> float:
    """Mean time of a text: each step that a text comes to is waited for."""
    total, share = 0.0, 1.0
    for step, numbers, measured in zip(steps, fitted, done, strict=True):
        if numbers.confidence is not None:
            total += share * step.milliseconds
        share -= measured.share
    return total


def temperature_of(probabilities: Floats, answers: npt.NDArray[np.int64]) -> float:
    """Of the least cross-entropy over the texts that are answered; 1 where there are too few."""
    answered = probabilities.sum(1) > 0
    if not answered.any():
        return 1.0
    given = probabilities[answered]
    targets = np.eye(given.shape[1])[answers[answered]]
    return round(fit_temperature(np.log(np.maximum(given, _LEAST)), targets), _DIGITS)


def settings_lines(name: str, fitted: Sequence[FittedStep]) -> list[str]:
    """TOML to paste; a step that would answer nothing is left out."""
    lines = []
    for number, step in enumerate(fitted):
        if step.confidence is None:
            lines.append(f"# {step.model} is left out: no confidence keeps the accuracy")
            continue
        lines += [f"[[serve.cascades.{name}]]", f'model = "{step.model}"']
        if number < len(fitted) - 1:
            lines.append(f"confidence = {step.confidence:g}")
        lines.append(f"temperature = {step.temperature:g}")
    return lines


def _surest(step: Said, temperature: float) -> tuple[npt.NDArray[np.int64], Floats]:
    """The likeliest label of each text and its probability; -1 and 0 where the step refuses."""
    logs = np.log(np.maximum(step.probabilities, _LEAST)) / temperature
    powers = np.exp(logs - logs.max(1, keepdims=True))
    sure = (powers / powers.sum(1, keepdims=True)).max(1)
    answered = step.probabilities.sum(1) > 0
    return np.where(answered, step.probabilities.argmax(1), -1), np.where(answered, sure, 0.0)


def _lowest(
    sure: Floats,
    hits: npt.NDArray[np.bool_],
    right: npt.NDArray[np.bool_],
    is_open: npt.NDArray[np.bool_],
    least: float,
) -> float | None:
    """The lowest confidence at which the whole is right often enough; None: there is none."""
    places = np.flatnonzero(is_open & (sure > 0))
    order = places[np.argsort(-sure[places], kind="stable")]
    if not len(order):
        return None
    # if the surest so many are answered by this step, and all else as before
    accuracy = (right.sum() + np.cumsum(hits[order].astype(int) - right[order])) / len(right)
    # as they will stand in the settings
    candidates = np.unique(np.floor(sure[order] * 10**_DIGITS) / 10**_DIGITS)
    passed = np.searchsorted(-sure[order], -candidates, side="right")
    good = (candidates > 0) & (passed > 0) & (accuracy[passed - 1] >= least - _SLACK)
    return float(candidates[good].min()) if good.any() else None
