"""The calls of decisions and their results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ironcliw._calls import Served, served_by
from ironcliw._generation import TokenUsage
from ironcliw._transport import Answer, Call, given_fields, read_json
from ironcliw.errors import RequestError

INSTRUCTIONS = "Which label fits the text best?"
SCORE_INSTRUCTIONS = "Which level fits the text best?"

Messages = Sequence[Mapping[str, Any]]
Labels = Sequence[str] | Mapping[str, str]
Examples = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True, slots=True)
class PredicateAnswer:
    """How likely it is that the statement is true."""

    name: str | None
    probability: float


@dataclasses.dataclass(frozen=True, slots=True)
class ChoiceAnswer:
    """The likeliest choice; `probabilities` has every choice, in the question's order."""

    name: str | None
    choice: str | bool
    confidence: float
    probabilities: dict[str | bool, float]


@dataclasses.dataclass(frozen=True, slots=True)
class ScoreAnswer:
    """The mean level, counted from 1; `probabilities` has each level's label, in order."""

    name: str | None
    score: float
    confidence: float
    probabilities: dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """None of the choices fits the input."""

    name: str | None


DecisionAnswer = PredicateAnswer | ChoiceAnswer | ScoreAnswer | Refusal


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """Answers in the order of the questions.

    Attributes:
        model: The model's id.
        answers: One a question.
        usage: Exact token counts.
        served: Who answered.
        truncated_tokens: How much of the input (method `embedding`: and of labels and examples)
            did not fit the model's window.
    """

    model: str
    answers: tuple[DecisionAnswer, ...]
    usage: TokenUsage
    served: Served
    truncated_tokens: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Classification:
    """The label of a text.

    Attributes:
        label: The likeliest label; None: no label fits the text.
        scores: Probability of each label, in the order given; empty where no label fits.
        served: Who answered.
        truncated_tokens: As of `Decision`.
    """

    label: str | None
    scores: dict[str, float]
    served: Served
    truncated_tokens: int = 0


def decision_call(
    given: str | Messages, questions: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]
) -> Call[Decision]:
    """`POST /v1/decisions`; fields that are None are left to the server's default."""
    body = given_fields(fields)
    body["input"] = given if isinstance(given, str) else [dict(message) for message in given]
    body["questions"] = [dict(question) for question in questions]
    return Call("POST", "/v1/decisions", _parse, body)


def classify_call(
    text: str, labels: Labels, examples: Examples | None, fields: Mapping[str, Any]
) -> Call[Classification]:
    """One choice question over labels."""
    descriptions = labels if isinstance(labels, Mapping) else None
    question = choice_question(labels, descriptions, examples)
    asked = decision_call(text, [question], fields)
    return Call(asked.method, asked.path, _parse_classification, asked.body)


def choice_question(
    labels: Labels,
    descriptions: Mapping[str, str] | None = None,
    examples: Examples | None = None,
    instructions: str = INSTRUCTIONS,
) -> dict[str, Any]:
    """A choice question, for `decide`.

    Args:
        labels: What to choose from; of a mapping the keys. One given twice is sent twice: the
            server refuses it.
        descriptions: What any of the labels means.
        examples: Texts for any of the labels.
        instructions: What is asked.

    Raises:
        RequestError: a description's or an example's label is none of the labels, or one text
            stands where several belong.
    """
    _require_several("labels", labels)
    given = {"description": descriptions or {}, "examples": examples or {}}
    for name, values in given.items():
        for label in values:
            if label not in labels:
                known = ", ".join(map(repr, labels))
                raise RequestError(
                    f"{name} has {label!r}, which is none of the labels: {known}", param=name
                )
    choices: list[dict[str, Any]] = []
    for label in labels:
        choice: dict[str, Any] = {"value": label}
        if described := given["description"].get(label):
            choice["description"] = described
        if texts := given["examples"].get(label):
            _require_several("examples", texts)
            choice["examples"] = list(texts)
        choices.append(choice)
    return {"type": "choice", "instructions": instructions, "choices": choices}


def score_question(
    levels: Labels,
    descriptions: Mapping[str, str] | None = None,
    instructions: str = SCORE_INSTRUCTIONS,
) -> dict[str, Any]:
    """A question for the place on a scale, for `decide`.

    Args:
        levels: From the lowest to the highest; of a mapping the keys.
        descriptions: What any of the levels means.
        instructions: What is asked.

    Raises:
        RequestError: a description's level is none of the levels, or one text stands where several
            belong.
    """
    choices = choice_question(levels, descriptions)["choices"]
    rows = [{"label": one.pop("value"), **one} for one in choices]
    return {"type": "score", "instructions": instructions, "levels": rows}


def _require_several(name: str, given: object) -> None:
    """A text is a sequence of texts too: its characters, which nobody means."""
    if isinstance(given, str):
        raise RequestError(
            f"{name} has the text {given[:60]!r} where a list of texts belongs; put it into a list",
            param=name,
        )


def predicate_question(statement: str) -> dict[str, Any]:
    """A question for the probability that a statement about the input is true, for `decide`."""
    return {"type": "predicate", "instructions": statement}


def _parse(answer: Answer) -> Decision:
    return read_json(answer.content, lambda document: _decision(document, answer.headers))


def _parse_classification(answer: Answer) -> Classification:
    def convert(document: Any) -> Classification:
        return _classification(_decision(document, answer.headers))

    return read_json(answer.content, convert)


def _decision(document: Any, headers: Mapping[str, str]) -> Decision:
    usage = document["usage"]
    return Decision(
        model=document["model"],
        answers=tuple(_answer(row) for row in document["answers"]),
        usage=TokenUsage(usage["input_tokens"], usage["output_tokens"]),
        served=served_by(headers),
        truncated_tokens=document.get("truncated_tokens") or 0,
    )


def _answer(row: Any) -> DecisionAnswer:
    kind, name = row["type"], row.get("name")
    if kind == "refusal":
        return Refusal(name)
    if kind == "predicate":
        return PredicateAnswer(name, row["probability"])
    rows = row["probabilities"]
    if kind == "choice":
        scores = {one["value"]: one["probability"] for one in rows}
        return ChoiceAnswer(name, row["choice"], row["confidence"], scores)
    if kind == "score":
        levels = {one["label"]: one["probability"] for one in rows}
        return ScoreAnswer(name, row["score"], row["confidence"], levels)
    raise ValueError(f"an answer is of type {kind!r}")


def _classification(decision: Decision) -> Classification:
    (answer,) = decision.answers
    if isinstance(answer, ChoiceAnswer):
        scores = {str(label): score for label, score in answer.probabilities.items()}
        return Classification(
            str(answer.choice), scores, decision.served, decision.truncated_tokens
        )
    return Classification(None, {}, decision.served, decision.truncated_tokens)
