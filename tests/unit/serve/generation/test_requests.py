"""Requests that break a rule: refused with the field's name before a job is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ironcliw.errors import (
    ContextLengthError,
    ModelNotFoundError,
    RequestError,
    RequestTooLargeError,
)
from tests.unit.serve.generation.running_service import (
    HELLO,
    USER,
    chat,
    completion,
    made,
    soon,
    texts,
)

BAD_CHATS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"model": "nope"}, ModelNotFoundError, "no model 'nope'"),
    ({"model": "vectors"}, RequestError, "is for embedding, not for generation"),
    (
        {"messages": [{"role": "user", "content": "x" * 300}]},
        ContextLengthError,
        r"the prompt has 3\d\d tokens; fake holds 256 of prompt",
    ),
    ({"max_tokens": 257}, ContextLengthError, "max_tokens is 257; fake holds 256 tokens"),
    ({"max_completion_tokens": 10**15}, ContextLengthError, "max_completion_tokens is 10"),
    ({"tools": [{"type": "function"}]}, RequestError, "tools is .* not served yet; leave it out"),
    ({"tool_choice": "required"}, RequestError, "tool_choice is 'required'.*'none', 'auto'"),
    ({"response_format": {"type": "json_object"}}, RequestError, "response_format is .* not serv"),
    ({"modalities": ["text", "audio"]}, RequestError, "modalities is .* not served"),
    ({"reasoning_effort": "high"}, RequestError, "reasoning_effort is 'high', which is not"),
    ({"web_search_options": {}}, RequestError, "web_search_options is .* not served"),
    ({"stop": ""}, RequestError, "stop has a text of 0 characters; give 1 to 512"),
    ({"stop": ["a", "b" * 513]}, RequestError, "stop has a text of 513 characters"),
    ({"stop": ["a"] * 17}, RequestError, "stop has 17 texts; at most 16"),
    ({"stream_options": {"include_usage": True}}, RequestError, "stream_options is for streams"),
    (
        {"max_tokens": 3, "max_completion_tokens": 4},
        RequestError,
        "max_completion_tokens is 4 and max_tokens, its older name, 3",
    ),
    ({"top_logprobs": 3}, RequestError, "top_logprobs needs logprobs"),
    ({"logit_bias": {"300": 1}}, RequestError, "logit_bias names the token 300"),
    (
        {"messages": [{"role": "tool", "content": "x"}]},
        RequestError,
        r"messages\[0\].role is 'tool': tools are not served yet",
    ),
    ({"messages": [*USER, {"role": "assistant"}]}, RequestError, r"messages\[1\].content is miss"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        RequestError,
        r"messages\[0\].content\[0\] is of type 'image_url'; this service reads text only",
    ),
    (
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]},
        RequestError,
        r"messages\[0\].tool_calls is .* not served",
    ),
]
BAD_COMPLETIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"prompt": []}, RequestError, "prompt is an empty list"),
    ({"prompt": ""}, RequestError, "the prompt is empty"),
    ({"prompt": ["a", ""]}, RequestError, "the prompt is empty"),
    ({"prompt": [300]}, RequestError, "prompt token 0 is 300; the ids of fake"),
    ({"prompt": [-1]}, RequestError, "prompt token 0 is -1"),
    ({"prompt": ["a"] * 20, "n": 7}, RequestTooLargeError, "20 prompts with n = 7 are more than"),
    ({"suffix": "end"}, RequestError, "suffix is 'end', which is not served yet"),
    ({"best_of": 3}, RequestError, "best_of is 3, which is not served yet"),
    ({"echo": True, "logprobs": 1}, RequestError, "echo is not served together with logprobs"),
    ({"prompt": "x" * 256}, ContextLengthError, "the prompt has 256 tokens"),
]


class TestBadInput:
    @pytest.mark.parametrize(("fields", "error", "message"), BAD_CHATS)
    async def test_chats(
        self, tmp_path: Path, fields: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        async with made(tmp_path) as it:
            with pytest.raises(error, match=message):
                await it.service.chat(chat(**fields), soon())
            assert it.variant.jobs == []

    @pytest.mark.parametrize(("fields", "error", "message"), BAD_COMPLETIONS)
    async def test_completions(
        self, tmp_path: Path, fields: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        async with made(tmp_path) as it:
            with pytest.raises(error, match=message):
                await it.service.complete(completion(**fields), soon())
            assert it.variant.jobs == []

    async def test_what_changes_nothing_is_accepted(self, tmp_path: Path) -> None:
        harmless = {
            "user": "me",
            "metadata": {"a": "b"},
            "store": False,
            "service_tier": "auto",
            "tools": [],
            "tool_choice": "none",
            "response_format": {"type": "text"},
            "modalities": ["text"],
            "verbosity": "medium",
            "parallel_tool_calls": True,
            "max_tokens": 100,
            "max_completion_tokens": 100,
            "messages": [{**USER[0], "annotations": None, "refusal": None}],
        }
        async with made(tmp_path) as it:
            answers, _ = await it.service.chat(chat(**harmless), soon())
        assert texts(answers) == [HELLO]


class TestScores:
    async def test_of_next_tokens(self, tmp_path: Path) -> None:
        async with made(tmp_path) as it:
            scores = await it.service.next_token_logprobs("fake", "> ", ["H", "x"], soon())
            chats = await it.service.next_token_logprobs("fake", USER, ["H"], soon())
            await it.service.next_token_logprobs("fake", "> ", ["H"], soon(), "high")
            assert [job.priority for job in it.variant.jobs] == [2, 2, 1]
            served = await it.service.served("fake")
        assert (served.model, served.variant, served.node) == ("fake", "test", "test-node")
        assert scores[0] == pytest.approx(0, abs=1e-6)
        assert scores[1] < -50
        assert chats[0] == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize(
        ("model", "prompt", "words", "message"),
        [
            ("fake", "> ", ["ab"], "'ab' after the prompt is not one token"),
            ("fake", "", ["a"], "the prompt is empty"),
            ("fake", "x" * 256, ["a"], "the prompt has 256 tokens"),
            ("source", "> ", ["a"], "need a causal model"),
            ("vectors", "> ", ["a"], "not for generation"),
        ],
    )
    async def test_bad_input(
        self, tmp_path: Path, model: str, prompt: str, words: list[str], message: str
    ) -> None:
        async with made(tmp_path) as it:
            with pytest.raises(RequestError, match=message):
                await it.service.next_token_logprobs(model, prompt, words, soon())


class TestTokensAtATime:
    @pytest.mark.parametrize(
        ("fields", "tokens"),
        [({}, 16), ({"stream": True}, 1), ({"stop": "x"}, 1), ({"stop": []}, 16), ({"n": 2}, 16)],
    )
    async def test_a_whole_answer_needs_no_message_for_each(
        self, tmp_path: Path, fields: dict[str, Any], tokens: int
    ) -> None:
        async with made(tmp_path) as it:
            await it.service.complete(completion(**fields), soon())
            await it.service.chat(chat(**fields), soon())
        assert {job.delta_tokens for job in it.variant.jobs} == {tokens}
