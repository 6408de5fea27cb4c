"""The forms of decisions, against the official client's own types."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Decision
from pydantic import ValidationError

from ironcliw.schemas.decisions import (
    ClassifyRequest,
    DecisionRequest,
    DecisionResponse,
    Message,
    ToolOutput,
)

CHOICE: dict[str, Any] = {
    "type": "choice",
    "instructions": "What is wanted?",
    "choices": [{"value": "lights"}, {"value": True}],
}


def request(**changes: Any) -> DecisionRequest:
    body = {"model": "m", "input": "some text", "questions": [CHOICE], **changes}
    return DecisionRequest.model_validate(body)


def test_every_kind_of_question_and_ignored_fields_are_accepted() -> None:
    found = request(
        questions=[
            CHOICE,
            {"type": "predicate", "instructions": "It is dark.", "name": "dark"},
            {
                "type": "score",
                "instructions": [{"type": "input_text", "text": "How loud?"}],
                "levels": [{"label": "low"}, {"label": "high", "description": "very loud"}],
            },
        ],
        prompt_cache_key="k",
        prompt_cache_options={"mode": "explicit", "ttl": "30m"},
        safety_identifier="s",
    )
    assert [question.type for question in found.questions] == ["choice", "predicate", "score"]


def test_choice_values_keep_their_type() -> None:
    found = request(questions=[{**CHOICE, "choices": [{"value": "true"}, {"value": True}]}])
    values = [choice.value for choice in found.questions[0].choices]  # type: ignore[union-attr]
    assert values == ["true", True]
    assert [type(value) for value in values] == [str, bool]


def test_messages_calls_and_outputs_are_accepted_and_a_messages_type_may_be_left_out() -> None:
    found = request(
        input=[
            {"role": "user", "content": "hello"},
            {
                "type": "message",
                "role": "assistant",
                "phase": "commentary",
                "content": [
                    {"type": "output_text", "text": "a"},
                    {"type": "refusal", "refusal": "no"},
                ],
            },
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "5"},
            {"type": "custom_tool_call", "call_id": "2", "name": "g", "input": "x"},
            {
                "type": "custom_tool_call_output",
                "call_id": "2",
                "output": [{"type": "input_text", "text": "7"}],
            },
        ]
    )
    assert isinstance(found.input[0], Message)
    assert isinstance(found.input[5], ToolOutput)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"questions": []}, "at least 1 item"),
        ({"questions": [CHOICE] * 401}, "at most 400 items"),
        ({"questions": [{**CHOICE, "choices": [{"value": "a"}]}]}, "at least 2 items"),
        (
            {"questions": [{**CHOICE, "choices": [{"value": str(n)} for n in range(256)]}]},
            "at most 255 items",
        ),
        ({"questions": [{**CHOICE, "choices": [{"value": 1}, {"value": 2}]}]}, "valid string"),
        ({"questions": [{**CHOICE, "type": "ranking"}]}, "'predicate', 'choice', 'score'"),
        ({"questions": [{"type": "score", "instructions": "a", "levels": []}]}, "at least 2"),
        ({"method": "magic"}, "'embedding', 'nli', 'classifier', 'lm' or 'head'"),
        ({"refusal_threshold": 1.5}, "less than or equal to 1"),
        ({"refusal_threshold": float("nan")}, "than or equal to"),
        ({"colour": "red"}, "Extra inputs are not permitted"),
        ({"input": [{"role": "wizard", "content": "a"}]}, "'user', 'developer', 'system'"),
        ({"input": 5}, "valid string"),
    ],
)
def test_wrong_requests(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        request(**changes)


def test_the_documented_answer_is_what_the_client_parses() -> None:
    body = {
        "model": "m",
        "answers": [
            {"type": "predicate", "name": None, "probability": 0.5},
            {"type": "refusal", "name": "q"},
            {
                "type": "choice",
                "name": "c",
                "choice": True,
                "confidence": 1.0,
                "probabilities": [{"value": True, "probability": 1.0}],
            },
            {
                "type": "score",
                "name": None,
                "score": 1.0,
                "confidence": 1.0,
                "probabilities": [{"label": "low", "value": 1, "probability": 1.0}],
            },
        ],
        "usage": {
            "input_tokens": 3,
            "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 3,
        },
    }
    ours = DecisionResponse.model_validate(body).model_dump(exclude_none=True, exclude_unset=True)
    theirs = Decision.model_validate(body).model_dump(exclude_none=True, exclude_unset=True)
    assert ours == theirs


def test_the_classify_form_is_that_of_hugging_face() -> None:
    found = ClassifyRequest.model_validate(
        {
            "inputs": ["a", "b"],
            "parameters": {
                "candidate_labels": "x, y",
                "multi_label": True,
                "hypothesis_template": "It is {}.",
            },
        }
    )
    assert found.parameters.candidate_labels == "x, y"
    assert ClassifyRequest.model_validate({"inputs": "a"}).parameters.candidate_labels is None
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        ClassifyRequest.model_validate({"inputs": "a", "parameters": {"labels": ["x"]}})
