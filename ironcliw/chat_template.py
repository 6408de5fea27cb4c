"""Chat templates: the Jinja text that a model brings, rendered in a sandbox.

A template is a program from whoever made the model. Bounded here: what it can reach (Jinja's
immutable sandbox), the length of its source and of its output, the seconds that it runs, `range`,
and the size of products and powers. Not bounded: one call inside the interpreter (a filter over a
huge value that the template built by doubling), so name only sources whose files you would open.

Contents of messages are put in as they are, as every server does: a user who writes a special
token's text (`<|im_end|>`) into a message writes that token.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ironcliw.errors import ModelLoadError, RequestError, RequestTooLargeError

MOST_CHARACTERS = 1_000_000
_MOST_SOURCE = 500_000
_MOST_SECONDS = 2.0
_MOST_EXPONENT = 64

ChatMessages = Sequence[Mapping[str, Any]]


class ChatTemplate:
    """A compiled template; threads may share one.

    Args:
        source: Jinja, as models publish it.
        special_tokens: `bos_token` and the like, which templates use by name.
        where: What the template belongs to, for messages.
        now: What the template is told that the time is; None: what it is. Training gives one, or
            the same data would be other tokens tomorrow.

    Raises:
        ModelLoadError: it is no template.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        where: str,
        *,
        now: datetime | None = None,
    ) -> None:
        self._where = where
        self._special_tokens = dict(special_tokens)
        self._knows_developer = "developer" in source
        if len(source) > _MOST_SOURCE:
            raise ModelLoadError(
                f"the chat template of {where} has {len(source)} characters; at most "
                f"{_MOST_SOURCE} are read"
            )
        try:
            self._template = _environment(now).from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ModelLoadError(
                f"the chat template of {where} is damaged ({error}); correct its "
                "chat_template.jinja or tokenizer_config.json"
            ) from error

    def render(
        self,
        messages: ChatMessages,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text, special tokens included: encode it without adding any.

        Args:
            messages: `role` and `content` of each turn; `developer` is read as `system` where the
                template does not know it.
            add_generation_prompt: End with what opens the assistant's answer.
            tools: What the assistant may call, as JSON schemas.
            values: What else the template is given by name, such as `enable_thinking`.

        Raises:
            RequestError: the template refuses the messages, in its own words.
            RequestTooLargeError: the text is longer than `MOST_CHARACTERS`.
            ModelLoadError: the template fails, or takes too long.
        """
        names = {
            "documents": None,
            **self._special_tokens,
            **(values or {}),
            "messages": [self._known(message) for message in messages],
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            with _seconds_bounded(_MOST_SECONDS):
                return self._collect(self._template.generate(names))
        except RequestError:
            raise
        except _RefusedError as error:
            raise RequestError(
                f"the chat template of {self._where} refuses the messages: {error.message}",
                param="messages",
            ) from error
        # whatever a program of somebody else's may raise
        except Exception as error:
            reason = f"{type(error).__name__}: {_short(error)}"
            raise ModelLoadError(
                f"the chat template of {self._where} failed ({reason}); correct it, or use "
                "/v1/completions, which needs none",
                code="chat_template_failed",
            ) from error

    def _known(self, message: Mapping[str, Any]) -> dict[str, Any]:
        role = message["role"]
        if role == "developer" and not self._knows_developer:
            role = "system"
        return {**message, "role": role}

    def _collect(self, parts: Iterator[str]) -> str:
        kept: list[str] = []
        size = 0
        for part in parts:
            size += len(part)
            if size > MOST_CHARACTERS:
                raise RequestTooLargeError(
                    f"the conversation has more than {MOST_CHARACTERS} characters; send fewer or "
                    "shorter messages",
                    param="messages",
                )
            kept.append(part)
        return "".join(kept)


class _RefusedError(jinja2.TemplateError):
    """The template called `raise_exception`."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses products and powers that would fill the memory in one operation."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and not (isinstance(right, int) and abs(right) <= _MOST_EXPONENT):
            raise SecurityError(f"the exponent is not a number up to {_MOST_EXPONENT}")
        if operator == "*" and _product_size(left, right) > MOST_CHARACTERS:
            raise SecurityError(f"a product has more than {MOST_CHARACTERS} items")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """`{% generation %}`, with which some templates mark the assistant's turns for training."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(now: datetime | None) -> _Sandbox:
    """As transformers' `apply_chat_template` has it, so that templates mean the same."""
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: (now or datetime.now()).strftime(form)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own writes HTML entities."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise _RefusedError(str(message))


def _short(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= 200 else text[:197] + "..."


def _product_size(left: Any, right: Any) -> int:
    for items, times in ((left, right), (right, left)):
        if isinstance(items, str | list | tuple) and isinstance(times, int):
            return len(items) * times
    return 0


@contextmanager
def _seconds_bounded(seconds: float) -> Iterator[None]:
    """Raise SecurityError in this thread once the time is over.

    A trace function sees every line of the compiled template, also in loops that write nothing.
    """
    end = time.monotonic() + seconds

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise SecurityError(f"it ran for more than {seconds:g} s")
        return line

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        # the lines of Jinja and its helpers need not be seen: only a template loops for ever
        return line if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
