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

from ironcliw.setting_sections import CascadeStep
from serve.decisions.answers import Estimate, Estimates, Probabilities
from serve.decisions.questions import Question, UnfitQuestionError
from serve.decisions.together import together
from serve.embeddings import Served

Ask = Callable[[CascadeStep, Question], Awaitable[Estimates]]
"""One question to the model of a step."""
Skipped = Callable[[CascadeStep, UnfitQuestionError], object]


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


async def decide(
    steps: Sequence[CascadeStep],
    questions: Sequence[Question],
    ask: Ask,
    skipped: Skipped = lambda step, error: None,
) -> Decided:
    """Ask the steps in turn until each question has an answer that is sure enough.

    A step that cannot answer a question, as a head that does not know its labels, leaves it to the
    next one.

    Args:
        steps: At least one.
        questions: At least one.
        ask: Asks the model of a step; UnfitQuestionError: it cannot answer the question.
        skipped: Told of each question that a step could not answer, and why.

    Raises:
        RequestError: the request breaks a rule, or the last step cannot answer a question that
            came to it.
        IroncliwError: see the error tree.
    """
    settled: dict[int, tuple[Estimate, str]] = {}
    tokens = truncated = 0
    served: Served | None = None
    for number, step in enumerate(steps):
        is_last = number == len(steps) - 1
        left = [at for at in range(len(questions)) if at not in settled]
        told = None if is_last else skipped
        asked = (_asked(step, questions[at], ask, told) for at in left)
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
    step: CascadeStep, question: Question, ask: Ask, skipped: Skipped | None
) -> Estimates | None:
    try:
        return await ask(step, question)
    except UnfitQuestionError as error:
        if skipped is None:
            raise
        skipped(step, error)
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
    likely = float(estimate.probabilities.max())
    return likely * (estimate.fit if estimate.fit_is_own else 1.0) >= confidence


def tempered(estimate: Estimate, temperature: float) -> Estimate:
    """The same with probabilities at another temperature: above 1 less sure, below 1 surer."""
    if temperature == 1.0:
        return estimate
    given: Probabilities = estimate.probabilities
    if len(given) == 1 or estimate.independent:  # each against its opposite
        found = _powered(np.stack([given, 1 - given]), temperature)[0]
    else:
        found = _powered(given, temperature)
    fit = estimate.fit if estimate.fit_is_own else float(found.max())
    return replace(estimate, probabilities=found, fit=fit)


def _powered(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Along the first axis, made to sum to 1."""
    logs = np.log(np.maximum(probabilities, 1e-300)) / temperature
    powers = np.exp(logs - logs.max(axis=0))
    found: Probabilities = powers / powers.sum(axis=0)
    return found
