"""Which step of a cascade answers, and what the others cost."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from ironcliw.errors import OverloadedError, RequestError
from ironcliw.setting_sections import CascadeStep
from serve.decisions.answers import Estimate, Estimates
from serve.decisions.cascade import Decided, decide, is_sure, tempered
from serve.decisions.questions import Option, Question, UnfitQuestionError
from serve.embeddings import Served

CHOICE = Question("choice", "c", "What?", (Option("a"), Option("b")))
OTHER = Question("choice", "d", "Which?", (Option("x"), Option("y")))
PREDICATE = Question("predicate", "p", "It is so.")


def step(model: str, confidence: float = 0.9, **more: Any) -> CascadeStep:
    return CascadeStep(model=model, confidence=confidence, **more)


def estimate(*probabilities: float, **more: Any) -> Estimate:
    return Estimate(np.array(probabilities), **more)


class Models:
    """Answers by model and question's name; an error is raised."""

    def __init__(self, **answers: dict[str, Any]) -> None:
        self._answers = answers
        self.asked: list[tuple[str, str | None]] = []

    async def __call__(self, asked: CascadeStep, question: Question) -> Estimates:
        self.asked.append((asked.model, question.name))
        found = self._answers[asked.model][question.name or ""]
        if isinstance(found, Exception):
            raise found
        return Estimates([found], 10, Served(asked.model, "local", "node"), 1)


def run(models: Models, steps: list[CascadeStep], *questions: Question) -> Decided:
    return asyncio.run(decide(steps, questions, models))


def test_a_sure_answer_ends_it() -> None:
    models = Models(head={"c": estimate(0.95, 0.05)}, nli={})
    found = run(models, [step("head"), step("nli")], CHOICE)
    assert found.by == ["head"]
    assert found.estimates[0].probabilities.tolist() == [0.95, 0.05]
    assert (found.tokens, found.truncated, found.served.model) == (10, 1, "head")


def test_only_what_is_open_goes_on() -> None:
    models = Models(
        head={"c": estimate(0.95, 0.05), "d": estimate(0.6, 0.4)},
        lm={"d": estimate(0.3, 0.7)},
        nli={"d": estimate(0.55, 0.45)},
    )
    steps = [step("head"), step("lm", 0.8), step("nli")]
    found = run(models, steps, OTHER, CHOICE)
    assert found.by == ["nli", "head"]
    assert models.asked == [("head", "d"), ("head", "c"), ("lm", "d"), ("nli", "d")]
    # the last step's answer is the answer, however sure it is
    assert found.estimates[0].probabilities.tolist() == [0.55, 0.45]
    assert found.tokens == 40
    assert found.served.model == "nli"


def test_a_step_that_cannot_answer_leaves_it_to_the_next() -> None:
    models = Models(
        head={"c": UnfitQuestionError("'a' is not a label"), "d": estimate(1.0, 0.0)},
        nli={"c": estimate(0.5, 0.5)},
    )
    skipped: list[str] = []
    steps = [step("head"), step("nli")]
    found = asyncio.run(
        decide(
            steps,
            [CHOICE, OTHER],
            models,
            lambda step, error: skipped.append(f"{step.model}: {error}"),
        )
    )
    assert found.by == ["nli", "head"]
    assert skipped == ["head: 'a' is not a label"]


def test_the_last_step_must_answer() -> None:
    models = Models(head={"c": estimate(0.5, 0.5)}, nli={"c": UnfitQuestionError("no such label")})
    with pytest.raises(RequestError, match="no such label"):
        run(models, [step("head"), step("nli")], CHOICE)


@pytest.mark.parametrize("error", [OverloadedError("full", retry_after=1), RequestError("full")])
def test_other_errors_end_it_at_once(error: Exception) -> None:
    models = Models(head={"c": error}, nli={"c": estimate(0.5, 0.5)})
    with pytest.raises(type(error), match="full"):
        run(models, [step("head"), step("nli")], CHOICE)


@pytest.mark.parametrize(
    ("question", "given", "sure"),
    [
        (CHOICE, estimate(0.9, 0.1), True),
        (CHOICE, estimate(0.89, 0.11), False),
        # sure among the choices, and likely none of them
        (CHOICE, estimate(0.95, 0.05, fit=0.5), False),
        (CHOICE, estimate(0.99, 0.01, fit=0.95, threshold=0.96), False),
        # the fit is the same number once more, and no other evidence
        (CHOICE, estimate(0.92, 0.08, fit=0.92, fit_is_own=False), True),
        (PREDICATE, estimate(0.05), True),
        (PREDICATE, estimate(0.5), False),
    ],
)
def test_what_is_sure(question: Question, given: Estimate, sure: bool) -> None:
    assert is_sure(question, given, 0.9) is sure


def test_a_temperature_makes_a_step_less_sure() -> None:
    assert tempered(estimate(0.8, 0.2), 1.0).probabilities.tolist() == [0.8, 0.2]
    cooled = tempered(estimate(0.8, 0.2), 2.0).probabilities
    assert cooled.tolist() == pytest.approx([2 / 3, 1 / 3])  # square roots of 4 to 1
    assert tempered(estimate(0.8), 2.0).probabilities.tolist() == pytest.approx([2 / 3])
    whole = tempered(estimate(0.8, 0.2, fit=0.8, fit_is_own=False), 2.0)
    assert whole.fit == pytest.approx(2 / 3)
    # of several labels each is likely or not by itself
    many = tempered(estimate(0.8, 0.9, 0.1, fit=0.9, fit_is_own=False, independent=True), 2.0)
    assert many.probabilities.tolist() == pytest.approx([2 / 3, 0.75, 0.25])
    models = Models(lm={"c": estimate(0.95, 0.05)}, nli={"c": estimate(0.9, 0.1)})
    steps = [step("lm", temperature=3.0), step("nli")]
    assert run(models, steps, CHOICE).by == ["nli"]
