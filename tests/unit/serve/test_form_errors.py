"""What a request that breaks a rule is told: one path style, known fields, plain words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ironcliw.errors import RequestError
from ironcliw.schemas.decisions import ClassifyRequest, DecisionRequest
from ironcliw.schemas.generation import ChatCompletionRequest
from serve.form_errors import explain, parse_form

CHOICE = {"type": "choice", "instructions": "x", "choices": [{"value": "a"}, {"value": "b"}]}
JARGON = ("Input", "validation", "tag", "valid ", "permitted", "dictionary", "instance")

DECISIONS: list[tuple[dict[str, Any], str, str]] = [
    (
        {"questions": [{**CHOICE, "choices": [{"value": "a"}]}]},
        "questions[0].choices",
        "must have at least 2 items; given: ",
    ),
    ({"questions": [CHOICE] * 401}, "questions", "must have at most 400 items; given: "),
    ({"questions": [5]}, "questions[0]", "must be an object; given: 5"),
    (
        {"questions": [{**CHOICE, "type": "rank"}]},
        "questions[0].type",
        "must be 'predicate', 'choice' or 'score'; given: 'rank'",
    ),
    (
        {"questions": [{"instructions": "x"}]},
        "questions[0].type",
        "is required; give 'predicate', 'choice' or 'score'",
    ),
    (
        {"questions": [{**CHOICE, "choices": [{"value": 5}, {"value": "b"}]}]},
        "questions[0].choices[0].value",
        "must be a string or a boolean; given: 5",
    ),
    (
        {"questions": [{**CHOICE, "choices": [{"value": "a", "x": 1}, {"value": "b"}]}]},
        "questions[0].choices[0].x",
        "; known fields: value, description, examples",
    ),
    # a member of a union and its field may have one name
    (
        {"questions": [{**CHOICE, "instructions": [{"type": "refusal"}]}]},
        "questions[0].instructions[0].refusal",
        "is required",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "refusal", "refusal": "a", "x": 1}]}]},
        "input[0].content[0].x",
        "; known fields: type, refusal",
    ),
    ({"input": [{"role": "user", "content": 5}]}, "input[0].content", "must be a string or a list"),
    (
        {"input": [{"type": "function_call_output", "call_id": "x", "output": 5}]},
        "input[0].output",
        "must be a string or a list; given: 5",
    ),
    (
        {"input": [{"type": "picture"}]},
        "input[0].type",
        "'function_call_output' or 'custom_tool_call_output'; given: 'picture'",
    ),
    ({"input": 5}, "input", "must be a string or a list; given: 5"),
    ({"refusal_threshold": "x"}, "refusal_threshold", "must be a number; given: 'x'"),
    ({"multi_label": 1}, "multi_label", "must be a boolean; given: 1"),
]
CHATS: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "must have at least 1 item; given: []"),
    ({"messages": ["hi"]}, "messages[0]", "must be an object; given: 'hi'"),
    (
        {"messages": [{"role": "king", "content": "a"}]},
        "messages[0].role",
        "must be 'system', 'developer', 'user', 'assistant', 'tool' or 'function'; given: 'king'",
    ),
    (
        {"messages": [{"role": "user", "contents": "a"}]},
        "messages[0].contents",
        "; known fields: role, content, name",
    ),
    (
        {"messages": [{"role": "user", "content": [{"text": "a"}]}]},
        "messages[0].content[0].type",
        "is required",
    ),
    ({"stop": ["a", 5]}, "stop[1]", "must be a string; given: 5"),
    ({"stream_options": {"usage": True}}, "stream_options.usage", "known fields: include_usage"),
    ({"logit_bias": {"1": 1000}}, "logit_bias.1", "must be less than or equal to 100"),
    ({"max_tokens": 1.5}, "max_tokens", "must be an integer; given: 1.5"),
    ({"colour": 1}, "colour", "unknown field 'colour'; known fields: model, temperature"),
]


def faults(form: type[BaseModel], body: dict[str, Any]) -> list[RequestError]:
    """The error of the same body as JSON and as fields in process."""
    with pytest.raises(RequestError) as as_json:
        parse_form(json.dumps(body).encode(), form)
    with pytest.raises(ValidationError) as as_fields:
        form(**body)
    return [as_json.value, explain(as_fields.value, form)]


@pytest.mark.parametrize(("changes", "param", "message"), DECISIONS)
def test_decisions(changes: dict[str, Any], param: str, message: str) -> None:
    body = {"model": "m", "input": "x", "questions": [CHOICE], **changes}
    for error in faults(DecisionRequest, body):
        assert error.param == param
        assert message in error.message
        assert param in error.message
        assert not [word for word in JARGON if word in error.message], error.message


@pytest.mark.parametrize(("changes", "param", "message"), CHATS)
def test_chats(changes: dict[str, Any], param: str, message: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], **changes}
    for error in faults(ChatCompletionRequest, body):
        assert error.param == param
        assert message in error.message
        assert not [word for word in JARGON if word in error.message], error.message


def test_a_body_that_is_no_object() -> None:
    with pytest.raises(RequestError, match=r"^the body must be an object; given: \[\]$") as caught:
        parse_form(b"[]", ClassifyRequest)
    assert caught.value.param is None
    with pytest.raises(RequestError, match="the body is not valid JSON in UTF-8") as caught:
        parse_form(b"{", ClassifyRequest)
    assert caught.value.code == "bad_json"


def test_long_values_are_cut() -> None:
    with pytest.raises(RequestError) as caught:
        parse_form(json.dumps({"inputs": "a", "x" * 500: 1}).encode(), ClassifyRequest)
    assert len(caught.value.message) < 200
