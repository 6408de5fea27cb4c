"""From probabilities to the JSON of an answer, and when to refuse one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson

from serve.decisions.questions import Options, Question
from serve.embeddings import Served

Probabilities = npt.NDArray[np.float64]

_NO_DETAILS = {"cache_write_tokens": 0, "cached_tokens": 0}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a method says about one question.

    Attributes:
        probabilities: float64 [L], one an option in the order asked; [1] of a predicate.
        fit: Probability that any option fits the text; refused below the threshold.
        threshold: The method's own; None: it never refuses by itself.
        fit_is_own: Whether the fit was found apart from the probabilities; otherwise it is the
            largest of them, and says nothing more.
        independent: Whether each option is likely or not by itself; else they sum to 1.
    """

    probabilities: Probabilities
    fit: float = 1.0
    threshold: float | None = None
    fit_is_own: bool = True
    independent: bool = False


@dataclass(frozen=True, slots=True)
class Estimates:
    """What a method says about a request.

    Attributes:
        estimates: In the order of the questions.
        tokens: That went into the answers, special tokens included.
        served: Who computed.
        truncated: Tokens of the text, or of labels and examples, that did not fit the model's
            window.
    """

    estimates: list[Estimate]
    tokens: int
    served: Served
    truncated: int = 0


class Method(Protocol):
    """One way to decide."""

    async def estimate(
        self,
        model_id: str,
        text: str,
        questions: Sequence[Question],
        options: Options,
        deadline: float | None,
    ) -> Estimates:
        """Probabilities of every question's options.

        Args:
            model_id: Of the catalogue; its task fits the method.
            text: What to decide about; not empty.
            questions: At least one.
            options: How.
            deadline: On the clock of `time.monotonic`, or None.

        Raises:
            RequestError: a question cannot be answered in this way.
            IroncliwError: see the error tree.
        """
        ...

    def forget(self, model_id: str) -> None:
        """Drop what is kept of a model: it may come back with other files."""
        ...


def softmax(logits: npt.NDArray[Any]) -> Probabilities:
    """Along the last axis, in float64."""
    shifted = np.asarray(logits, dtype=np.float64)
    powers = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    result: Probabilities = powers / powers.sum(axis=-1, keepdims=True)
    return result


def answer(question: Question, estimate: Estimate, threshold: float | None) -> dict[str, Any]:
    """One answer, in the form of `openai.types.decision`.

    Args:
        question: What was asked.
        estimate: What the method says.
        threshold: The client's, which wins over the method's own.
    """
    if question.kind == "predicate":
        probability = float(estimate.probabilities[0])
        return {"type": "predicate", "name": question.name, "probability": probability}
    least = estimate.threshold if threshold is None else threshold
    if least is not None and estimate.fit < least:
        return {"type": "refusal", "name": question.name}
    found = estimate.probabilities.tolist()
    best = max(range(len(found)), key=found.__getitem__)
    if question.kind == "choice":
        return {
            "type": "choice",
            "name": question.name,
            "choice": question.options[best].value,
            "confidence": found[best],
            "probabilities": [
                {"value": option.value, "probability": probability}
                for option, probability in zip(question.options, found, strict=True)
            ],
        }
    levels = list(zip(question.options, found, range(1, len(found) + 1), strict=True))
    return {
        "type": "score",
        "name": question.name,
        "score": sum(probability * value for _, probability, value in levels),
        "confidence": found[best],
        "probabilities": [
            {"label": option.value, "value": value, "probability": probability}
            for option, probability, value in levels
        ],
    }


def decision_body(model: str, answers: list[dict[str, Any]], tokens: int, truncated: int) -> bytes:
    """JSON of a `DecisionResponse`."""
    body: dict[str, Any] = {
        "model": model,
        "answers": answers,
        "usage": {
            "input_tokens": tokens,
            "input_tokens_details": _NO_DETAILS,
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens,
        },
    }
    if truncated:
        body["truncated_tokens"] = truncated
    return orjson.dumps(body)
