"""Records of each form to examples for supervised training; `train.data.formats` has the forms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from train.data.examples import Completion, Conversation, Text
from train.data.problems import RowError, shortened
from train.data.turns import conversation, without_empty

Value = Mapping[str, Any]


def messages(value: Value) -> Conversation:
    values = value.get("chat_template_kwargs") or {}
    return conversation(value["messages"], tools=_tools(value), values=values)


def sharegpt(value: Value) -> Conversation:
    turns = value["conversations"]
    if isinstance(turns, list) and (system := without_empty(value.get("system"))):
        turns = [{"from": "system", "value": system}, *turns]
    return conversation(turns, tools=_tools(value))


def alpaca(value: Value) -> Conversation:
    instruction, more = value["instruction"], without_empty(value.get("input"))
    if more is not None and isinstance(instruction, str) and isinstance(more, str):
        instruction = f"{instruction}\n{more}"
    turns = _system(value)
    for pair in value.get("history") or ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError(
                "bad-messages",
                f"history holds {shortened(pair)}",
                "give it [question, answer] pairs",
            )
        turns += _pair(*pair)
    return conversation(turns + _pair(instruction, value["output"]))


def prompt_completion(value: Value, called: str = "completion") -> Conversation | Completion:
    prompt, completion = value["prompt"], value["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        turns = [as_object(turn) | {"weight": 0} for turn in prompt]
        return conversation([*turns, *completion], tools=_tools(value))
    for name, text in (("prompt", prompt), (called, completion)):
        if not isinstance(text, str):
            raise RowError(
                "bad-messages",
                f"{name} is {shortened(text)}, a {type(text).__name__}",
                f"give prompt and {called} as two texts, or as two lists of messages",
            )
        _check_text(name, text)
    return Completion(prompt, completion)


def text(value: Value) -> Text:
    return Text(checked_text("text", value["text"]))


def checked_text(name: str, given: Any) -> str:
    """A value that is a text with something in it.

    Raises:
        RowError: it is not.
    """
    if not isinstance(given, str):
        raise RowError(
            "bad-messages", f"{name} is {shortened(given)}, a {type(given).__name__}", "give a text"
        )
    _check_text(name, given)
    return given


def _check_text(name: str, text: str) -> None:
    if not text.strip():
        raise RowError("empty-content", f"{name} is empty", "fill it, or remove the row")
    if not _is_unicode(text):
        raise RowError(
            "bad-utf8", f"{name} holds half of a surrogate pair", "write the whole character"
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_object(turn: Any) -> dict[str, Any]:
    if isinstance(turn, dict):
        return turn
    raise RowError(
        "bad-messages", f"a message is {shortened(turn)}", "give objects with role and content"
    )


def _system(value: Value) -> list[dict[str, Any]]:
    system = without_empty(value.get("system"))
    return [] if system is None else [{"role": "system", "content": system}]


def _pair(question: Any, answer: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _tools(value: Value) -> list[Any] | None:
    """A list, or the JSON of one, as some data sets have it."""
    tools = without_empty(value.get("tools"))
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError:
            pass  # told below
    if tools is None or tools == []:
        return None
    if isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools):
        return tools
    raise RowError(
        "bad-messages", f"tools is {shortened(tools)}", "give a list of JSON schemas of functions"
    )
