"""Decisions by natural language inference: does the text entail "This example is LABEL."?

The reading of the logits is that of transformers' zero-shot pipeline (Yin et al. 2019,
arXiv:1909.00161), whose scores these equal in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ironcliw.errors import RequestError, RequestTooLargeError
from serve.decisions.answers import Estimate, Estimates, Probabilities, softmax
from serve.decisions.logits import SequenceClassifiers, SequenceEncoder
from serve.decisions.questions import Options, Question
from serve.engines.protocol import Vectors

logger = logging.getLogger(__name__)

MULTI_LABEL_THRESHOLD = 0.5
"""Every label is likelier contradicted than entailed: none of them fits."""

MOST_PAIRS = 16_384
"""Of one request: minutes of a small model's time."""


def entailment_index(labels: Sequence[str]) -> int:
    """Of the class that means entailment; the last one where no name says so.

    As transformers 5.23, ZeroShotClassificationPipeline.entailment_id.
    """
    for index, label in enumerate(labels):
        if label.lower().startswith("entail"):
            return index
    return -1


def label_probabilities(logits: Vectors, entailment: int, *, multi_label: bool) -> Probabilities:
    """Scores of L labels from their logits [L, C]; float64 [L].

    Args:
        logits: One row a label.
        entailment: See `entailment_index`.
        multi_label: Each label by itself, entailed against contradicted; else one of them is true.
    """
    if multi_label or len(logits) == 1:
        contradiction = -1 if entailment == 0 else 0
        return softmax(logits[:, [contradiction, entailment]])[:, 1]
    return softmax(logits[:, entailment])


class NliMethod:
    """Pairs of a text and a hypothesis for every label, all in one queue.

    A predicate is entailed or contradicted by itself. `Options.multi_label` does the same to each
    choice, and refuses where all are contradicted.

    Args:
        classifiers: Where logits come from.
    """

    def __init__(self, classifiers: SequenceClassifiers) -> None:
        self._classifiers = classifiers
        self._warned: set[str] = set()

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
        entailment = self._entailment(model_id, encoder)
        hypotheses = [_hypotheses(question, options.template) for question in questions]
        flat = [hypothesis for group in hypotheses for hypothesis in group]
        if len(flat) > MOST_PAIRS:
            raise RequestTooLargeError(
                f"the questions have {len(flat)} labels and statements; at most {MOST_PAIRS} are "
                "allowed in one request",
                param="questions",
            )
        pairs = await self._classifiers.pairs(model_id, text, flat)
        found = await self._classifiers.logits(model_id, pairs, options.priority, deadline)
        ends = np.cumsum([len(group) for group in hypotheses])
        estimates = [
            _estimate(question, rows, entailment, options.multi_label)
            for question, rows in zip(questions, np.split(found.rows, ends[:-1]), strict=True)
        ]
        return Estimates(estimates, found.tokens, found.served, found.truncated)

    def forget(self, model_id: str) -> None:
        """See `serve.decisions.answers.Method`."""
        self._warned.discard(model_id)

    def _entailment(self, model_id: str, encoder: SequenceEncoder) -> int:
        if len(encoder.labels) < 2:
            raise RequestError(
                f"model {model_id!r} has one class and cannot tell entailment from contradiction; "
                "use a model trained on natural language inference",
                param="model",
            )
        index = entailment_index(encoder.labels)
        if index < 0 and model_id not in self._warned:
            self._warned.add(model_id)
            logger.warning(
                "no class of %s has a name that begins with 'entail' (%s): the last one is taken",
                model_id,
                ", ".join(encoder.labels)[:200],
            )
        return index


def _hypotheses(question: Question, template: str) -> list[str]:
    if question.kind == "predicate":
        return [question.instructions]
    # not str.format: the template is the client's and could ask for a gigabyte of padding
    return [
        template.replace("{}", option.description or option.text) for option in question.options
    ]


def _estimate(question: Question, rows: Vectors, entailment: int, multi_label: bool) -> Estimate:
    multi = multi_label and question.kind == "choice"
    probabilities = label_probabilities(rows, entailment, multi_label=multi)
    threshold = MULTI_LABEL_THRESHOLD if multi else None
    best = float(probabilities.max())
    return Estimate(probabilities, best, threshold, fit_is_own=False, independent=multi)
