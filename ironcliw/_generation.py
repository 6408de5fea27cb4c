"""The calls of generation, whole answers and streams of text, and their results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from ironcliw._calls import Served, served_by
from ironcliw._events import END_OF_STREAM
from ironcliw._transport import Answer, Call, error_from_body, given_fields, read_json
from ironcliw.errors import IroncliwError, RequestError, UnavailableError
from ironcliw.schemas import Priority

DEFAULT_CHAT_MODEL = "SmolLM2-135M-Instruct"
CHAT_PATH = "/v1/chat/completions"
COMPLETION_PATH = "/v1/completions"

Message = Mapping[str, Any]


class GenerationOptions(TypedDict, total=False):
    """What may be said about how an answer is made; what is left out is the server's default.

    Attributes:
        max_tokens: Most tokens of the answer.
        temperature: 0 takes the most likely token each time.
        top_p: Draw from the smallest set of tokens with this probability together.
        top_k: Draw from the k most likely tokens; 0: from all.
        seed: The same seed draws the same.
        stop: One text or several; the answer ends before the first that comes up in it.
        n: How many answers; a stream has one.
        repetition_penalty: Above 1 makes what was said less likely.
        presence_penalty: Taken off the logits of tokens in the answer.
        frequency_penalty: The same, times how often.
        priority: Order among waiting requests.
    """

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    stop: str | Sequence[str] | None
    n: int | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    priority: Priority | None


@dataclasses.dataclass(frozen=True, slots=True)
class TokenUsage:
    """Exact token counts: what was read, and what was drawn."""

    input_tokens: int
    output_tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One answer; `finish_reason` is `stop`, or `length` where it was cut."""

    text: str
    finish_reason: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Completion:
    """The answer to a prompt or a conversation.

    Attributes:
        model: The model's id.
        choices: As many answers as `n` asked for; `text` and `finish_reason` are the first's.
        usage: Tokens of the prompt, and of all answers.
        served: Who answered.
    """

    model: str
    choices: tuple[Choice, ...]
    usage: TokenUsage
    served: Served

    @property
    def text(self) -> str:
        """The first answer."""
        return self.choices[0].text

    @property
    def finish_reason(self) -> str | None:
        """Why the first answer ended."""
        return self.choices[0].finish_reason


class TextEvents:
    """Reads the events of a streamed answer; no I/O.

    Attributes:
        served: Who answers.
        finish_reason: None until the answer has ended.
        usage: None until the stream has ended, and where the server does not tell.
    """

    def __init__(self, served: Served) -> None:
        self.served = served
        self.finish_reason: str | None = None
        self.usage: TokenUsage | None = None
        self._done = False

    @property
    def done(self) -> bool:
        """The last event has come."""
        return self._done

    def feed(self, data: str) -> str:
        """The text of one event.

        Raises:
            IroncliwError: it is an error event: the answer ends here.
        """
        if data == END_OF_STREAM:
            self._done = True
        if self._done:
            return ""
        text = read_json(data, self._take)
        if isinstance(text, IroncliwError):
            raise text
        return text

    def finish(self) -> None:
        """Raise UnavailableError if the stream was cut."""
        if not self._done:
            raise UnavailableError(
                "the connection ended before the answer did; what came of it is not all of it"
            )

    def _take(self, document: Any) -> str | IroncliwError:
        error = document.get("error")
        if isinstance(error, dict):
            # the status line was sent long before, so the code alone tells the class
            return error_from_body(error, 500, {})
        if document.get("usage"):
            self.usage = _usage(document["usage"])
        if not document["choices"]:
            return ""  # the last chunk has the usage alone
        choice = document["choices"][0]
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        return _text(choice, "delta")


def chat_call(messages: str | Sequence[Message], fields: Mapping[str, Any]) -> Call[Completion]:
    """`POST /v1/chat/completions`; a text stands for one message of the user."""
    body = {**given_fields(fields), "messages": _listed(messages)}
    return Call("POST", CHAT_PATH, _parse, body)


def completion_call(prompt: str, fields: Mapping[str, Any]) -> Call[Completion]:
    """`POST /v1/completions`."""
    return Call("POST", COMPLETION_PATH, _parse, {**given_fields(fields), "prompt": prompt})


def streamed(call: Call[Completion]) -> Call[TextEvents]:
    """The same call, with the answer as a stream.

    Raises:
        RequestError: it asks for several answers, whose texts would come mixed.
    """
    body = dict(call.body or {})
    if body.get("n", 1) != 1:
        raise RequestError(
            f"n is {body['n']}; a stream has one answer: leave n out, or do not stream", param="n"
        )
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    return Call("POST", call.path, _open, body, stream=True)


def _open(answer: Answer) -> TextEvents:
    kind = answer.headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        raise IroncliwError(
            f"the answer is {kind or 'of no type'} and not a stream of events; is client.base_url "
            "an Ironcliw server of this release?",
            code="invalid_answer",
        )
    return TextEvents(served_by(answer.headers))


def _listed(messages: str | Sequence[Message]) -> list[dict[str, Any]]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    return [dict(message) for message in messages]


def _parse(answer: Answer) -> Completion:
    return read_json(answer.content, lambda document: _completion(document, answer.headers))


def _completion(document: Any, headers: Mapping[str, str]) -> Completion:
    rows = sorted(document["choices"], key=lambda row: row["index"])
    if not rows:
        raise ValueError("it has no choices")
    return Completion(
        model=document["model"],
        choices=tuple(Choice(_text(row, "message"), row["finish_reason"]) for row in rows),
        usage=_usage(document["usage"]),
        served=served_by(headers),
    )


def _text(choice: Mapping[str, Any], key: str) -> str:
    """The text of a choice: of a completion, or of a chat's `message` or `delta`."""
    text = choice["text"] if "text" in choice else choice[key].get("content")
    if not isinstance(text, str | None):
        raise TypeError(f"the text of a choice is {text!r}")
    return text or ""


def _usage(document: Mapping[str, int]) -> TokenUsage:
    return TokenUsage(document["prompt_tokens"], document.get("completion_tokens", 0))
