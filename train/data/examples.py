"""What is trained on, whatever form it came in.

A conversation, a prompt with its completion, or two of these of which one is preferred.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns that the model's chat template writes out.

    Attributes:
        messages: `role`, `content` and what else the template may use, one a turn.
        supervised: Which turns the model shall learn to write; only the assistant's.
        tools: What the assistant may call, as JSON schemas.
        values: What else the template is given by name.
    """

    messages: tuple[Message, ...]
    supervised: tuple[bool, ...]
    tools: tuple[Message, ...] | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """A text and how it goes on, without a template."""

    prompt: str
    completion: str

    def as_conversation(self) -> Conversation:
        """The same as a question and its answer."""
        messages = (
            {"role": "user", "content": self.prompt},
            {"role": "assistant", "content": self.completion},
        )
        return Conversation(messages, (False, True))


@dataclass(frozen=True, slots=True)
class Text:
    """A text of which every token is learnt but the first."""

    text: str


@dataclass(frozen=True, slots=True)
class Preference:
    """One prompt with two ends, of which the first is preferred.

    Attributes:
        chosen: The whole of it, its supervised part at the end.
        rejected: As chosen; what is not supervised is the same.
    """

    chosen: Conversation | Completion
    rejected: Conversation | Completion


Example = Conversation | Completion | Text | Preference


def answers(example: Example) -> list[str]:
    """The texts that the model shall learn to write, or to tell apart."""
    if isinstance(example, Preference):
        return [*answers(example.chosen), *answers(example.rejected)]
    if isinstance(example, Text):
        return [example.text]
    if isinstance(example, Completion):
        return [example.completion]
    turns = zip(example.messages, example.supervised, strict=True)
    return [str(message.get("content") or "") for message, supervised in turns if supervised]


def content_key(example: Example) -> bytes:
    """32 bytes that are equal for examples that are equal but for white space.

    A prompt and its completion count as the conversation of the same words.
    """
    if isinstance(example, Preference):
        keys = content_key(example.chosen) + content_key(example.rejected)
        return hashlib.sha256(keys).digest()
    if isinstance(example, Text):
        # no conversation has an empty prompt
        example = Completion("", example.text)
    if isinstance(example, Completion):
        example = example.as_conversation()
    turns = [
        {name: _normal(value) for name, value in message.items()} for message in example.messages
    ]
    parts = [turns, list(example.supervised), example.tools, dict(example.values)]
    # Parquet has times and numbers that JSON has not
    text = json.dumps(
        parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=repr
    )
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def split_key(example: Example) -> bytes:
    """32 bytes that decide whether an example is held out.

    Those of `content_key`; but of preferences those of the prompt: pairs of answers to one prompt
    are held out together, or what is held out would be known.
    """
    if not isinstance(example, Preference):
        return content_key(example)
    chosen = example.chosen
    if isinstance(chosen, Completion):
        chosen = chosen.as_conversation()
    first = chosen.supervised.index(True)
    return content_key(replace(chosen, messages=chosen.messages[:first], supervised=()))


def _normal(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value
