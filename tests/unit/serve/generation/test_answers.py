"""Bytes of answers and events, read back by the official client's types and our own forms."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from openai.types import Completion as OpenAICompletion
from openai.types.chat import ChatCompletion as OpenAIChat
from openai.types.chat import ChatCompletionChunk as OpenAIChunk

from ironcliw.errors import DeadlineExceededError
from ironcliw.schemas.generation import ChatCompletion, ChatCompletionChunk, Completion
from serve.engines.decoders.fake import END, fake_tokenizer
from serve.generation.answering import Answer, Answering
from serve.generation.answers import chat_body, chat_events, completion_body, completion_events
from serve.generation.protocol import TokenDraw
from serve.generation.stream import Piece
from serve.generation.text import TextSide

TEXT = TextSide("fake", fake_tokenizer(), 64, 258, (END,))
DRAWS = (
    (0, TokenDraw(72, -0.5, ((72, -0.5), (74, -1.5)))),
    (1, TokenDraw(0xC3, -0.25, ((0xC3, -0.25),))),
)


async def answering(
    pieces: Sequence[tuple[int, Piece] | Exception], count: int = 1, **options: Any
) -> Answering:
    async def source() -> AsyncGenerator[tuple[int, Piece], None]:
        for item in pieces:
            if isinstance(item, Exception):
                raise item
            yield item

    made = Answering("chatcmpl", TEXT, count, 5, source(), **options)
    await made.begin()
    made.fingerprint = "fake-float32"
    return made


def events_of(content: bytes) -> list[Any]:
    lines = content.decode().split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


async def collected(events: AsyncGenerator[bytes, None]) -> list[Any]:
    return events_of(b"".join([event async for event in events]))


class TestBodies:
    async def test_a_chat(self) -> None:
        made = await answering([(0, Piece("", (), 3))])
        body = chat_body(made, [Answer("Hi", "stop", ()), Answer("Ho", "length", ())])
        parsed = OpenAIChat.model_validate_json(body, strict=True)
        assert [choice.message.content for choice in parsed.choices] == ["Hi", "Ho"]
        assert [choice.finish_reason for choice in parsed.choices] == ["stop", "length"]
        assert parsed.choices[0].logprobs is None
        assert parsed.usage is not None
        assert parsed.usage.prompt_tokens == 5
        assert parsed.id.startswith("chatcmpl-")
        assert parsed.system_fingerprint == "fake-float32"
        ours = ChatCompletion.model_validate_json(body)
        assert not ours.model_extra

    async def test_log_probabilities_of_a_chat(self) -> None:
        made = await answering([(0, Piece())], logprobs=True)
        parsed = OpenAIChat.model_validate_json(chat_body(made, [Answer("H", "stop", DRAWS)]))
        assert parsed.choices[0].logprobs is not None
        first, second = parsed.choices[0].logprobs.content or []
        assert (first.token, first.bytes, first.logprob) == ("H", [72], -0.5)
        assert [(top.token, top.logprob) for top in first.top_logprobs] == [
            ("H", -0.5),
            ("J", -1.5),
        ]
        # half a character: its bytes say what its text cannot
        assert (second.token, second.bytes) == ("\ufffd", [0xC3])

    async def test_an_impossible_token_has_a_finite_log_probability(self) -> None:
        made = await answering([(0, Piece("", (), 3))], logprobs=True)
        draws = ((0, TokenDraw(72, -float("inf"), ((72, -float("inf")),))),)
        body = chat_body(made, [Answer("H", "stop", draws)])
        [token] = json.loads(body)["choices"][0]["logprobs"]["content"]
        assert token["logprob"] == token["top_logprobs"][0]["logprob"] == -9999.0
        body = completion_body(made, [Answer("H", "stop", draws)])
        assert json.loads(body)["choices"][0]["logprobs"]["token_logprobs"] == [-9999.0]

    async def test_a_completion_with_echo(self) -> None:
        made = await answering([(0, Piece())], echoes=("> ",))
        body = completion_body(made, [Answer("Hi", "stop", ())])
        parsed = OpenAICompletion.model_validate_json(body, strict=True)
        assert parsed.choices[0].text == "> Hi"
        assert not Completion.model_validate_json(body).model_extra

    async def test_log_probabilities_of_a_completion(self) -> None:
        made = await answering([(0, Piece())], logprobs=True)
        body = completion_body(made, [Answer("H", "stop", DRAWS)])
        logprobs = OpenAICompletion.model_validate_json(body).choices[0].logprobs
        assert logprobs is not None
        assert logprobs.tokens == ["H", "\ufffd"]
        assert logprobs.token_logprobs == [-0.5, -0.25]
        assert logprobs.top_logprobs == [{"H": -0.5, "J": -1.5}, {"\ufffd": -0.25}]
        assert logprobs.text_offset == [0, 1]


class TestEvents:
    async def test_a_chat_of_two_answers(self) -> None:
        pieces = [
            (1, Piece("", (), 1)),
            (0, Piece("H", (), 1)),
            (0, Piece("", (), 1)),
            (1, Piece("J", (), 1)),
            (0, Piece("i", (), 1, "stop")),
            (1, Piece("", (), 0, "length")),
        ]
        made = await answering(pieces, 2)
        *chunks, done = await collected(chat_events(made, usage=True))
        assert done == "[DONE]"
        parsed = [OpenAIChunk.model_validate(chunk, strict=True) for chunk in chunks]
        assert all(not ChatCompletionChunk.model_validate(chunk).model_extra for chunk in chunks)
        *body, last = parsed
        said = [(chunk.choices[0].index, chunk.choices[0].delta.content) for chunk in body]
        assert said == [(1, ""), (0, "H"), (1, "J"), (0, "i"), (1, None)]
        roles = [chunk.choices[0].delta.role for chunk in body]
        assert roles == ["assistant", "assistant", None, None, None]
        ends = [chunk.choices[0].finish_reason for chunk in body]
        assert ends == [None, None, None, "stop", "length"]
        assert all(chunk.usage is None for chunk in body)
        assert last.choices == []
        assert last.usage is not None
        assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (5, 5)
        assert len({chunk.id for chunk in parsed}) == 1

    async def test_no_usage_where_none_was_asked_for(self) -> None:
        made = await answering([(0, Piece("H", (), 1, "stop"))])
        chunk, done = await collected(chat_events(made))
        assert done == "[DONE]"
        assert "usage" not in chunk

    async def test_log_probabilities_come_with_their_text(self) -> None:
        made = await answering([(0, Piece("H", DRAWS, 2, "stop"))], logprobs=True)
        chunk, _ = await collected(chat_events(made))
        assert [token["bytes"] for token in chunk["choices"][0]["logprobs"]["content"]] == [
            [72],
            [0xC3],
        ]

    async def test_an_error_ends_a_stream_without_done(self) -> None:
        error = DeadlineExceededError("too late")
        made = await answering([(0, Piece("H", (), 1)), error])
        chunk, last = await collected(chat_events(made))
        assert chunk["choices"][0]["delta"]["content"] == "H"
        assert last == error.body()

    async def test_completions_with_echo_and_an_error(self) -> None:
        made = await answering([(0, Piece("H", (), 1)), DeadlineExceededError("x")], echoes=("> ",))
        *chunks, last = await collected(completion_events(made))
        assert [chunk["choices"][0]["text"] for chunk in chunks] == ["> ", "H"]
        assert all(not Completion.model_validate(chunk).model_extra for chunk in chunks)
        assert last["error"]["code"] == "deadline_exceeded"

    async def test_a_whole_stream_of_completions(self) -> None:
        made = await answering([(0, Piece("H", (), 1)), (0, Piece("", (), 0, "length"))])
        *chunks, last, done = await collected(completion_events(made, usage=True))
        # the client does not validate: OpenAI itself sends null reasons, against its own type
        parsed = [OpenAICompletion.construct(**chunk) for chunk in chunks]
        assert [chunk.choices[0].text for chunk in parsed] == ["H", ""]
        assert parsed[-1].choices[0].finish_reason == "length"
        assert last["usage"]["total_tokens"] == 6
        assert done == "[DONE]"
