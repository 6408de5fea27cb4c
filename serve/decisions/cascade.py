"""Cheap models first: a question goes on to the next only where the one before is not sure.

A cascade is a list of steps in the settings, asked for as a model of its own name:

    [[serve.cascades.router]]
    model = "all-MiniLM-L6-v2:intents"
    confidence = 0.9
    [[serve.cascades.router]]
    model = "bart-large-mnli"

Probabilities are compared with `confidence` after the step's own `temperature`, since a model that
is not calibrated is surer than it is right. The last step answers whatever is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ironcliw.errors import RequestError
from ironcliw.setting_sections import CascadeStep
from serve.decisions.answers import Estimate, Estimates, Probabilities
from serve.decisions.questions import Question
from serve.decisions.together import together
from serve.embeddings import Served

Ask = Callable[[CascadeStep, Question], Awaitable[Estimates]]
"""One question to the model of a step."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What a cascade says of a request.

    Attributes:
        estimates: In the order of the questions.
        by: The model that decided each.
        tokens: That went into the answers, of all steps.
        served: Who computed the last step that was needed.
        truncated: Most tokens that were cut for any step.
    """

    estimates: list[Estimate]
    by: list[str]
    tokens: int
    served: Served
    truncated: int


async def decide(steps: Sequence[CascadeStep], questions: Sequence[Question], ask: Ask) -> Decided:
    """Ask the steps in turn until each question has an answer that is sure enough.

    A step that cannot answer a question, as a head that does not know its labels, leaves it to the
    next one.

    Args:
        steps: At least one.
        questions: At least one.
        ask: Asks the model of a step.

    Raises:
        RequestError: the last step cannot answer a question that came to it.
        IroncliwError: see the error tree.
    """
    settled: dict[int, tuple[Estimate, str]] = {}
    tokens = truncated = 0
    served: Served | None = None
    for number, step in enumerate(steps):
        is_last = number == len(steps) - 1
        left = [at for at in range(len(questions)) if at not in settled]
        asked = (_asked(step, questions[at], ask, is_last=is_last) for at in left)
        for at, found in zip(left, await together(asked), strict=True):
            if found is None:
                continue
            tokens += found.tokens
            truncated, served = max(truncated, found.truncated), found.served
            estimate = tempered(found.estimates[0], step.temperature)
            if is_last or is_sure(questions[at], estimate, step.confidence):
                settled[at] = (estimate, step.model)
        if len(settled) == len(questions):
            break
    assert served is not None, "the last step answers or raises"
    answers = [settled[at] for at in range(len(questions))]
    return Decided(
        [estimate for estimate, _ in answers],
        [model for _, model in answers],
        tokens,
        served,
        truncated,
    )


async def _asked(
    step: CascadeStep, question: Question, ask: Ask, *, is_last: bool
) -> Estimates | None:
    try:
        return await ask(step, question)
    except RequestError:
        if is_last:
            raise
        return None


def is_sure(question: Question, estimate: Estimate, confidence: float) -> bool:
    """Whether an answer is sure enough to end with.

    Args:
        question: What was asked.
        estimate: Of the model.
        confidence: Of the likeliest answer, of those that were given and of none of them.
    """
    if question.kind == "predicate":
        likely = float(estimate.probabilities[0])
        return max(likely, 1 - likely) >= confidence
    if estimate.threshold is not None and estimate.fit < estimate.threshold:
        return False  # none fits, says a model that may only not know better
    return float(estimate.probabilities.max()) * estimate.fit >= confidence


def tempered(estimate: Estimate, temperature: float) -> Estimate:
    """The same with probabilities at another temperature: above 1 less sure, below 1 surer."""
    if temperature == 1.0:
        return estimate
    given: Probabilities = estimate.probabilities
    if len(given) == 1:  # of a predicate: against its opposite
        pair = _powered(np.array([given[0], 1 - given[0]]), temperature)
        return replace(estimate, probabilities=pair[:1])
    return replace(estimate, probabilities=_powered(given, temperature))


def _powered(probabilities: Probabilities, temperature: float) -> Probabilities:
    logs = np.log(np.maximum(probabilities, 1e-300)) / temperature
    powers = np.exp(logs - logs.max())
    found: Probabilities = powers / powers.sum()
    return found
