"""The turns of a conversation, checked: roles, contents, and which of them are supervised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.data.examples import Conversation
from train.data.problems import RowError, shortened

ROLES = ("system", "developer", "user", "assistant", "tool")

_OTHER_NAMES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
}
"""What ShareGPT's files and LLaMA-Factory call the roles."""


def conversation(turns: Any, *, tools: list[Any] | None = None, values: Any = None) -> Conversation:
    """Check turns and take them as a conversation.

    Args:
        turns: Objects with `role` and `content`, or `from` and `value`.
        tools: JSON schemas of what the assistant may call.
        values: For the template, by name.

    Raises:
        RowError: a turn breaks a rule, or they do together.
    """
    if not isinstance(turns, list) or not turns:
        raise RowError(
            "bad-messages",
            f"the conversation is {shortened(turns)}",
            "give a list of messages, each with role and content",
        )
    if values is not None and not isinstance(values, Mapping):
        raise RowError(
            "bad-messages",
            f"chat_template_kwargs is {shortened(values)}",
            "give an object of names and values",
        )
    read = [_turn(turn, number) for number, turn in enumerate(turns, 1)]
    messages = tuple(message for message, _ in read)
    _check_systems(messages)
    supervised = tuple(taught for _, taught in read)
    if not any(message["role"] == "assistant" for message in messages):
        raise RowError(
            "no-assistant-turn",
            f"the roles are {', '.join(message['role'] for message in messages)}",
            "add the answer that shall be learnt, as the assistant's turn",
        )
    if not any(supervised):
        raise RowError(
            "zero-supervised",
            "no turn of the assistant is to be learnt: each has weight 0 or stands in the prompt",
            "give one of them weight 1, or put it into the completion",
        )
    return Conversation(messages, supervised, tuple(tools) if tools else None, dict(values or {}))


def without_empty(value: Any) -> Any:
    """None for a text of white space alone: how tables write that there is nothing."""
    return None if isinstance(value, str) and not value.strip() else value


def _turn(turn: Any, number: int) -> tuple[dict[str, Any], bool]:
    if not isinstance(turn, Mapping):
        raise RowError(
            "bad-messages",
            f"message {number} is {shortened(turn)}",
            "give an object with role and content",
        )
    message = {name: value for name, value in turn.items() if value is not None}
    role = _role(message, number)
    content = message.pop("content", message.pop("value", None))
    weight = message.pop("weight", 1)
    if type(weight) not in (int, bool, float) or weight not in (0, 1):
        raise RowError(
            "bad-messages", f"message {number} has weight {shortened(weight)}", "give 0 or 1"
        )
    rest = {name: value for name, value in message.items() if name not in ("role", "from")}
    text = _text(content, number, role, optional=role == "assistant" and "tool_calls" in rest)
    return {"role": role, "content": text, **rest}, role == "assistant" and bool(weight)


def _role(message: Mapping[str, Any], number: int) -> str:
    given = message.get("role", message.get("from"))
    role = _OTHER_NAMES.get(given, given) if isinstance(given, str) else given
    if role not in ROLES:
        known = ", ".join((*ROLES, *_OTHER_NAMES))
        found = "no role" if given is None else f"the role {shortened(given)}"
        raise RowError("unknown-role", f"message {number} has {found}", f"give one of {known}")
    return str(role)


def _text(content: Any, number: int, role: str, *, optional: bool) -> str:
    if isinstance(content, list):
        content = "".join(_part(part, number) for part in content)
    if content is None or (isinstance(content, str) and not content.strip()):
        if optional:
            return ""
        found = "no content" if content is None else "an empty content"
        raise RowError(
            "empty-content",
            f"message {number}, the {role}'s, has {found}",
            "fill it, or remove the message",
        )
    if not isinstance(content, str):
        raise RowError(
            "bad-messages",
            f"the content of message {number} is {shortened(content)}, a {type(content).__name__}",
            "give a text",
        )
    try:
        content.encode()
    except UnicodeEncodeError:
        raise RowError(
            "bad-utf8",
            f"message {number} holds half of a surrogate pair",
            "write the whole character",
        ) from None
    return content


def _part(part: Any, number: int) -> str:
    """Contents may be lists of parts, as OpenAI's interface has it; only texts can be learnt."""
    if isinstance(part, Mapping) and part.get("type") == "text":
        if isinstance(part.get("text"), str):
            return str(part["text"])
    raise RowError(
        "bad-messages",
        f"message {number} has the part {shortened(part)}",
        'give parts of the form {"type": "text", "text": ...} alone',
    )


def _check_systems(messages: tuple[Mapping[str, Any], ...]) -> None:
    places = [
        number for number, m in enumerate(messages, 1) if m["role"] in ("system", "developer")
    ]
    if len(places) > 1:
        raise RowError(
            "two-systems",
            f"messages {', '.join(map(str, places))} are all the system's",
            "join them into the first message",
        )
    if places and places != [1]:
        raise RowError(
            "misplaced-system",
            f"message {places[0]} is the system's",
            "put it first",
        )
