"""From answers to the bytes of HTTP: JSON bodies and server-sent events, as OpenAI writes them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

import orjson

from ironcliw.errors import IroncliwError
from serve.generation.answering import Answer, Answering
from serve.generation.protocol import TokenDraw
from serve.generation.stream import Piece
from serve.generation.text import TextSide

Draws = Iterable[tuple[int, TokenDraw]]
DONE = b"data: [DONE]\n\n"


def chat_body(answering: Answering, answers: Sequence[Answer]) -> bytes:
    """JSON of a `ChatCompletion`."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": _chat_logprobs(answering, answer.draws),
            "finish_reason": answer.finish,
        }
        for index, answer in enumerate(answers)
    ]
    return orjson.dumps(_whole(answering, "chat.completion", choices))


def completion_body(answering: Answering, answers: Sequence[Answer]) -> bytes:
    """JSON of a `Completion`."""
    choices = [
        {
            "index": index,
            "text": (answering.echoes[index] if answering.echoes else "") + answer.text,
            "logprobs": _completion_logprobs(answering, answer.draws),
            "finish_reason": answer.finish,
        }
        for index, answer in enumerate(answers)
    ]
    return orjson.dumps(_whole(answering, "text_completion", choices))


async def chat_events(answering: Answering, *, usage: bool = False) -> AsyncGenerator[bytes, None]:
    """A `ChatCompletionChunk` a piece; an error ends the stream without `[DONE]`.

    Args:
        answering: Begun; whoever opened it closes it.
        usage: End with a chunk that has the usage and no choices.
    """
    begun: set[int] = set()

    def choice(index: int, piece: Piece) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if index not in begun:
            begun.add(index)
            delta = {"role": "assistant", "content": ""}
        if piece.text:
            delta["content"] = piece.text
        return {
            "index": index,
            "delta": delta,
            "logprobs": _chat_logprobs(answering, piece.draws),
            "finish_reason": piece.finish,
        }

    head = _head(answering, "chat.completion.chunk", usage)
    try:
        async for index, piece in answering:
            if _says_something(piece) or index not in begun:
                yield _event({**head, "choices": [choice(index, piece)]})
    except IroncliwError as error:
        yield error_event(error)
        return
    if usage:
        yield _event({**head, "choices": [], "usage": _usage(answering)})
    yield DONE


async def completion_events(
    answering: Answering, *, usage: bool = False
) -> AsyncGenerator[bytes, None]:
    """A `Completion` a piece; otherwise as `chat_events`."""
    head = _head(answering, "text_completion", usage)
    try:
        for index, echo in enumerate(answering.echoes):
            yield _event({**head, "choices": [_text_choice(answering, index, Piece(echo))]})
        async for index, piece in answering:
            if _says_something(piece):
                yield _event({**head, "choices": [_text_choice(answering, index, piece)]})
    except IroncliwError as error:
        yield error_event(error)
        return
    if usage:
        yield _event({**head, "choices": [], "usage": _usage(answering)})
    yield DONE


def error_event(error: IroncliwError) -> bytes:
    """What ends a stream that cannot go on."""
    return _event(error.body())


def _says_something(piece: Piece) -> bool:
    return bool(piece.text or piece.draws) or piece.finish is not None


def _text_choice(answering: Answering, index: int, piece: Piece) -> dict[str, Any]:
    return {
        "index": index,
        "text": piece.text,
        "logprobs": _completion_logprobs(answering, piece.draws),
        "finish_reason": piece.finish,
    }


def _event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _head(answering: Answering, kind: str, usage: bool = False) -> dict[str, Any]:
    head: dict[str, Any] = {
        "id": answering.id,
        "object": kind,
        "created": answering.created,
        "model": answering.text.model,
        "system_fingerprint": answering.fingerprint,
    }
    if usage:
        head["usage"] = None
    return head


def _whole(answering: Answering, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {**_head(answering, kind), "choices": choices, "usage": _usage(answering)}


def _usage(answering: Answering) -> dict[str, int]:
    return {
        "prompt_tokens": answering.prompt_tokens,
        "completion_tokens": answering.completion_tokens,
        "total_tokens": answering.prompt_tokens + answering.completion_tokens,
    }


def _chat_logprobs(answering: Answering, draws: Draws) -> dict[str, Any] | None:
    if not answering.logprobs:
        return None
    content = [
        {
            **_token(answering.text, draw.id, draw.logprob),
            "top_logprobs": [_token(answering.text, *pair) for pair in draw.top],
        }
        for _, draw in draws
    ]
    return {"content": content, "refusal": None}


def _token(text: TextSide, token: int, logprob: float | None) -> dict[str, Any]:
    content = text.token_bytes(token)
    return {
        "token": content.decode(errors="replace"),
        "logprob": _finite(logprob),
        "bytes": list(content),
    }


def _completion_logprobs(answering: Answering, draws: Draws) -> dict[str, Any] | None:
    if not answering.logprobs:
        return None
    draws = list(draws)

    def written(token: int) -> str:
        return answering.text.token_bytes(token).decode(errors="replace")

    return {
        "tokens": [written(draw.id) for _, draw in draws],
        "token_logprobs": [_finite(draw.logprob) for _, draw in draws],
        "top_logprobs": [
            {written(token): _finite(p) for token, p in draw.top} for _, draw in draws
        ],
        "text_offset": [offset for offset, _ in draws],
    }


def _finite(logprob: float | None) -> float | None:
    """JSON has no infinity; OpenAI writes -9999 for what is next to impossible."""
    return None if logprob is None else max(logprob, -9999.0)
