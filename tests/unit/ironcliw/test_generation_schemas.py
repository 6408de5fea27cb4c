"""Requests for text: what is valid, what is not, and that every field of the client is known."""

from __future__ import annotations

import json
import typing
from typing import Any

import openai.types.chat.completion_create_params as chat_params
import openai.types.completion_create_params as completion_params
import pytest
from pydantic import ValidationError

from ironcliw.schemas.generation import ChatCompletionRequest, CompletionRequest

USER = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> ChatCompletionRequest:
    body = {"model": "m", "messages": USER, **fields}
    return ChatCompletionRequest.model_validate_json(json.dumps(body))


def completion(**fields: Any) -> CompletionRequest:
    body = {"model": "m", "prompt": "a", **fields}
    return CompletionRequest.model_validate_json(json.dumps(body))


@pytest.mark.parametrize(
    ("form", "params"),
    [
        (ChatCompletionRequest, chat_params.CompletionCreateParamsStreaming),
        (CompletionRequest, completion_params.CompletionCreateParamsStreaming),
    ],
)
def test_every_field_that_the_client_can_send_is_known(form: Any, params: Any) -> None:
    assert set(typing.get_type_hints(params)) <= set(form.model_fields)


def test_valid_values_at_their_limits() -> None:
    request = chat(
        temperature=0,
        top_p=1,
        n=16,
        stop=["a"] * 16,
        seed=-(2**63),
        presence_penalty=-2,
        frequency_penalty=2.0,
        logit_bias={"5": -100},
        top_logprobs=20,
        top_k=0,
        repetition_penalty=10,
        stream_options={"include_usage": True, "include_obfuscation": False},
    )
    assert request.temperature == 0
    assert request.logit_bias == {"5": -100}
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    assert chat(messages=parts, temperature=None, stop=None).messages[0].role == "user"
    assert completion(prompt=[[1, 2], [3]], stop="x").prompt == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": float("nan")}, "finite number"),
        ({"temperature": float("inf")}, "finite number"),
        ({"temperature": 2.1}, "less than or equal to 2"),
        ({"temperature": "1"}, "valid number"),
        ({"temperature": True}, "valid number"),
        ({"top_p": 0}, "greater than 0"),
        ({"top_k": -1}, "greater than or equal to 0"),
        ({"n": 0}, "greater than or equal to 1"),
        ({"n": 17}, "less than or equal to 16"),
        ({"max_tokens": -1}, "greater than or equal to 1"),
        ({"max_tokens": 0}, "greater than or equal to 1"),
        ({"max_tokens": 2.5}, "valid integer"),
        ({"max_tokens": 2**63}, "less than"),
        ({"max_completion_tokens": -5}, "greater than or equal to 1"),
        ({"presence_penalty": -2.1}, "greater than or equal to -2"),
        ({"frequency_penalty": 3}, "less than or equal to 2"),
        ({"repetition_penalty": 0}, "greater than 0"),
        ({"stop": 5}, "valid string"),
        ({"stop": ["a", 5]}, "valid string"),
        ({"seed": 2**63}, "less than"),
        ({"logit_bias": {"x": 1}}, "match pattern"),
        ({"logit_bias": {"1": 101}}, "less than or equal to 100"),
        ({"top_logprobs": 21}, "less than or equal to 20"),
        ({"messages": []}, "at least 1 item"),
        ({"messages": "hi"}, "valid array"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "'system', 'developer', 'user'"),
        ({"messages": [{"content": "hi"}]}, "required"),
        ({"messages": [{"role": "user", "content": 5}]}, "valid string"),
        ({"messages": [{"role": "user", "content": "hi", "colour": 1}]}, "not permitted"),
        ({"stream_options": {"include_usage": "yes"}}, "valid boolean"),
        ({"colour": "red"}, "not permitted"),
        ({"priority": "urgent"}, "'critical', 'high'"),
    ],
)
def test_wrong_values(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        chat(**fields)


@pytest.mark.parametrize("prompt", [5, None, {"text": "a"}, ["a", 5], [1.5], [["a"]]])
def test_wrong_prompts(prompt: Any) -> None:
    with pytest.raises(ValidationError, match="prompt"):
        completion(prompt=prompt)
