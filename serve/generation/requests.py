"""From a request to jobs: what is served, how to draw, how long an answer may be."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ironcliw.errors import ContextLengthError, RequestError, RequestTooLargeError
from ironcliw.schemas.generation import (
    ChatCompletionRequest,
    CompletionRequest,
    GenerationRequest,
    Message,
)
from serve.batcher import Priority
from serve.engines.protocol import Tokens
from serve.generation.protocol import GenerationJob, Sampling
from serve.generation.text import TextSide

_MOST_ANSWERS = 128
_MOST_STOPS = 16
_MOST_STOP_CHARACTERS = 512  # each is looked for at every step
_COMPLETION_TOKENS = 16  # OpenAI's default where a completion names none
_WHOLE_DELTA_TOKENS = 16
"""Tokens at a time of an answer that nobody reads as it grows. A replica that is lost takes as many
with it, to be computed again."""
_PRIORITIES = {
    "critical": Priority.CRITICAL,
    "high": Priority.HIGH,
    "normal": Priority.NORMAL,
    "low": Priority.LOW,
}
# Field: the values of it that change nothing.
_CHAT_FIELDS: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": ([], ["text"]),
    "audio": (),
    "moderation": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
}
_MESSAGE_FIELDS: dict[str, tuple[Any, ...]] = {
    "tool_calls": ([],),
    "function_call": (),
    "tool_call_id": (),
    "audio": (),
}


@dataclass(frozen=True, slots=True)
class PlannedJobs:
    """A request, ready to run.

    Attributes:
        jobs: One an answer, in the order of the choices.
        stops: Texts that end an answer.
        prompt_tokens: Over all prompts; a prompt with several answers counts once.
        echoes: Text to put before each answer.
        logprobs: Report the tokens' log-probabilities.
    """

    jobs: tuple[GenerationJob, ...]
    stops: tuple[str, ...]
    prompt_tokens: int
    echoes: tuple[str, ...]
    logprobs: bool


def plain_messages(request: ChatCompletionRequest) -> list[dict[str, str]]:
    """Role and text of each message.

    Raises:
        RequestError: a field or a part of a message is not served.
    """
    _refuse(request, _CHAT_FIELDS, "")
    _check_stream(request)
    if request.top_logprobs is not None and not request.logprobs:
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    return [
        {"role": message.role, "content": _content(message, f"messages[{index}]")}
        for index, message in enumerate(request.messages)
    ]


def plan_chat(request: ChatCompletionRequest, text: TextSide, prompt: Tokens) -> PlannedJobs:
    """Jobs of a chat whose prompt is rendered and encoded.

    Raises:
        RequestError, ContextLengthError: a value does not fit the model.
    """
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    most = request.max_completion_tokens
    name = "max_completion_tokens" if most is not None else "max_tokens"
    if most is not None and request.max_tokens not in (None, most):
        raise RequestError(
            f"max_completion_tokens is {most} and max_tokens, its older name, "
            f"{request.max_tokens}; give one of them",
            param="max_tokens",
        )
    most = most if most is not None else request.max_tokens
    job = _job(request, text, logprobs)
    check_room(text, prompt, "messages")
    return _planned(request, text, job, [prompt], (most, name), logprobs is not None)


def check_completion(request: CompletionRequest) -> Sequence[str] | Sequence[Sequence[int]]:
    """The prompts, each a text or token ids.

    Raises:
        RequestError, RequestTooLargeError: one is empty, there are too many, or a field is not
            served.
    """
    _refuse(request, {"suffix": ("",), "best_of": (request.n or 1,)}, "")
    _check_stream(request)
    if request.echo and request.logprobs is not None:
        raise RequestError("echo is not served together with logprobs yet", param="echo")
    given: Any = request.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not given:
        raise RequestError("prompt is an empty list; give at least one text", param="prompt")
    if len(given) * (request.n or 1) > _MOST_ANSWERS:
        raise RequestTooLargeError(
            f"{len(given)} prompts with n = {request.n or 1} are more than {_MOST_ANSWERS} "
            "answers, the most of one request",
            param="prompt",
        )
    return list(given)


def plan_completion(
    request: CompletionRequest, text: TextSide, prompts: Sequence[Tokens], echoes: Sequence[str]
) -> PlannedJobs:
    """Jobs of a completion whose prompts are encoded; `echoes` holds none or a text a prompt.

    Raises:
        RequestError, ContextLengthError: a value does not fit the model.
    """
    most = request.max_tokens if request.max_tokens is not None else _COMPLETION_TOKENS
    job = _job(request, text, request.logprobs)
    limit = (most, "max_tokens")
    return _planned(request, text, job, prompts, limit, request.logprobs is not None, tuple(echoes))


def check_room(text: TextSide, prompt: Tokens, param: str = "prompt") -> int:
    """Most tokens of an answer to this prompt, which came in the field `param`.

    Raises:
        RequestError: the prompt is empty.
        ContextLengthError: the prompt leaves no room for one token.
    """
    if len(prompt) == 0:
        raise RequestError("the prompt is empty; give at least one token of text", param=param)
    room = text.context if text.seq2seq else text.context - len(prompt)
    if room < 1 or len(prompt) > text.context:
        raise ContextLengthError(
            f"the prompt has {len(prompt)} tokens; {text.model} holds {text.context} of prompt "
            "and answer together, so at least one less; send a shorter prompt",
            param=param,
        )
    return room


def _planned(
    request: GenerationRequest,
    text: TextSide,
    job: dict[str, Any],
    prompts: Sequence[Tokens],
    limit: tuple[int | None, str],
    logprobs: bool,
    echoes: tuple[str, ...] = (),
) -> PlannedJobs:
    most, name = limit
    if most is not None and most > text.context:
        raise ContextLengthError(
            f"{name} is {most}; {text.model} holds {text.context} tokens of prompt and answer "
            "together; ask for fewer",
            param=name,
        )
    count = request.n or 1
    jobs = []
    for prompt in prompts:
        room = check_room(text, prompt)
        tokens = room if most is None else min(most, room)
        # the key of a draw is (seed, index, position): a prompt's answers do not depend on others
        jobs += [GenerationJob(prompt, tokens, index=index, **job) for index in range(count)]
    return PlannedJobs(
        tuple(jobs),
        _stops(request),
        sum(map(len, prompts)),
        tuple(echo for echo in echoes for _ in range(count)),
        logprobs,
    )


def _job(request: GenerationRequest, text: TextSide, logprobs: int | None) -> dict[str, Any]:
    """What all jobs of a request share."""
    return {
        "sampling": _sampling(request, text, logprobs),
        "stop_tokens": frozenset() if request.ignore_eos else text.end_tokens,
        "priority": int(_PRIORITIES[request.priority]),
        # a stop string is found where the text is, and ends the job there: it needs every token
        "delta_tokens": 1 if request.stream or request.stop else _WHOLE_DELTA_TOKENS,
    }


def _check_stream(request: GenerationRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise RequestError(
            "stream_options is for streams; leave it out, or set stream to true",
            param="stream_options",
        )


def _stops(request: GenerationRequest) -> tuple[str, ...]:
    given = [] if request.stop is None else request.stop
    stops = (given,) if isinstance(given, str) else tuple(given)
    if len(stops) > _MOST_STOPS:
        raise RequestError(
            f"stop has {len(stops)} texts; at most {_MOST_STOPS} are allowed", param="stop"
        )
    for stop in stops:
        if not 0 < len(stop) <= _MOST_STOP_CHARACTERS:
            raise RequestError(
                f"stop has a text of {len(stop)} characters; give 1 to {_MOST_STOP_CHARACTERS}",
                param="stop",
            )
    return stops


def _sampling(request: GenerationRequest, text: TextSide, logprobs: int | None) -> Sampling:
    """The request's values, else the model's own, else OpenAI's, which change nothing."""

    def chosen(name: str, neutral: float) -> float:
        given: float | None = getattr(request, name)
        return text.defaults.get(name, neutral) if given is None else given

    return Sampling(
        temperature=float(chosen("temperature", 1.0)),
        top_p=float(chosen("top_p", 1.0)),
        top_k=int(chosen("top_k", 0)),
        repetition_penalty=float(chosen("repetition_penalty", 1.0)),
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias=_logit_bias(request, text),
        seed=secrets.randbits(63) if request.seed is None else request.seed,
        logprobs=logprobs,
    )


def _logit_bias(request: GenerationRequest, text: TextSide) -> tuple[tuple[int, float], ...]:
    biases = tuple((int(token), bias) for token, bias in (request.logit_bias or {}).items())
    for token, _ in biases:
        if token >= text.vocabulary:
            raise RequestError(
                f"logit_bias names the token {token}; the ids of {text.model} go from 0 to "
                f"{text.vocabulary - 1}",
                param="logit_bias",
            )
    return biases


def _content(message: Message, where: str) -> str:
    if message.role in {"tool", "function"}:
        raise RequestError(
            f"{where}.role is {message.role!r}: tools are not served yet; use system, developer, "
            "user or assistant",
            param=f"{where}.role",
            code="unsupported_parameter",
        )
    _refuse(message, _MESSAGE_FIELDS, f"{where}.")
    if message.content is None:
        raise RequestError(f"{where}.content is missing; give a text", param=f"{where}.content")
    if isinstance(message.content, str):
        return message.content
    texts = []
    for index, part in enumerate(message.content):
        if part.type != "text" or part.text is None:
            raise RequestError(
                f"{where}.content[{index}] is of type {part.type!r:.40}; this service reads text "
                'only: {"type": "text", "text": ...}',
                param=f"{where}.content",
            )
        texts.append(part.text)
    return "\n".join(texts)


def _refuse(form: Any, fields: dict[str, tuple[Any, ...]], prefix: str) -> None:
    """What would change the answer and is not served must not be ignored in silence."""
    for name, harmless in fields.items():
        value = getattr(form, name)
        if value is not None and value not in harmless:
            known = ", ".join(repr(item) for item in harmless if item not in ([], ""))
            raise RequestError(
                f"{prefix}{name} is {value!r:.80}, which is not served yet; leave it out"
                + (f", or give {known}" if known else ""),
                param=f"{prefix}{name}",
                code="unsupported_parameter",
            )
