"""Decisions by a classifier that was trained on its own labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ironcliw.errors import RequestError
from serve.decisions.answers import Estimate, Estimates, Probabilities, softmax
from serve.decisions.logits import SequenceClassifiers, SequenceEncoder
from serve.decisions.questions import Options, Question, UnfitQuestionError
from serve.engines.protocol import Vectors


def class_probabilities(encoder: SequenceEncoder, logits: Vectors) -> Probabilities:
    """Of each class, float64 [B, C], as transformers' text-classification pipeline has them.

    Raises:
        RequestError: the model estimates a number, which is no probability.
    """
    kind = encoder.config.get("problem_type")
    if kind == "regression":
        raise RequestError(
            "the model was trained to estimate a number (problem_type is regression), which is no "
            "probability of a label; use a classifier",
            param="model",
        )
    if kind == "multi_label_classification" or len(encoder.labels) == 1:
        result: Probabilities = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
        return result
    return softmax(logits)


class ClassifierMethod:
    """One pass over the text answers every question whose options are classes of the model.

    Probabilities are those of the model, made to sum to 1 over the options given; how much the
    model gave to all of them together is the fit.

    Args:
        classifiers: Where logits come from.
    """

    def __init__(self, classifiers: SequenceClassifiers) -> None:
        self._classifiers = classifiers

    async def estimate(
        self,
        model_id: str,
        text: str,
        questions: Sequence[Question],
        options: Options,
        deadline: float | None,
    ) -> Estimates:
        """See `serve.decisions.answers.Method`."""
        encoder = await self._classifiers.encoder(model_id)
        wanted = [chosen_columns(model_id, question, encoder.labels) for question in questions]
        texts = await self._classifiers.singles(model_id, [text])
        found = await self._classifiers.logits(model_id, texts, options.priority, deadline)
        whole = class_probabilities(encoder, found.rows)[0]
        estimates = [
            chosen_estimate(question, whole[columns])
            for question, columns in zip(questions, wanted, strict=True)
        ]
        return Estimates(estimates, found.tokens, found.served, found.truncated)

    def forget(self, model_id: str) -> None:
        """Nothing is kept here."""


def chosen_columns(model_id: str, question: Question, labels: Sequence[str]) -> list[int]:
    """Places among a model's labels of a question's options, or of its statement.

    A name is a label's where they are equal, else where they are but for case, underscores and
    white space.

    Raises:
        UnfitQuestionError: one is no label of the model, or two are one.
    """
    places = {_normal(label): index for index, label in enumerate(labels)}
    exact = {label: index for index, label in enumerate(labels)}
    names = [option.text for option in question.options] or [question.instructions]
    found = [exact.get(name, places.get(_normal(name))) for name in names]
    columns = [column for column in found if column is not None]
    if len(columns) < len(names):
        unknown = [name for name, column in zip(names, found, strict=True) if column is None]
        known = ", ".join(labels)
        shown = known if len(known) <= 300 else known[:297] + "..."
        raise UnfitQuestionError(
            f"{question.param}: {unknown[0][:60]!r} is not a label of {model_id}, and a "
            f"classifier answers a {question.kind} about its own labels only; they are {shown}",
            param=question.param,
        )
    if len(set(columns)) < len(columns):
        raise UnfitQuestionError(
            f"{question.param}: two of its options are one label of {model_id}; give each once",
            param=question.param,
        )
    return columns


def _normal(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def chosen_estimate(question: Question, given: Probabilities) -> Estimate:
    """Of the probabilities of a question's options among all labels, in its order."""
    if question.kind == "predicate":
        return Estimate(given)
    total = float(given.sum())
    return Estimate(given / max(total, 1e-300), min(total, 1.0))
