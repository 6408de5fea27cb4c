"""Records to examples: chat messages, ShareGPT, Alpaca, prompt and completion, plain text.

    messages            {"messages": [{"role", "content"}, ...]}, also "tools"
    sharegpt            {"conversations": [{"from", "value"}, ...]}, also "system", "tools"
    alpaca              {"instruction", "output"}, also "input", "system", "history"
    prompt_completion   {"prompt", "completion"}, each a text or a list of messages, also "tools"
    text                {"text"}, of which every token is learnt

`history` holds earlier [question, answer] pairs, whose answers are supervised too, as in
LLaMA-Factory (https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md). A message with
`"weight": 0` is not supervised, as in OpenAI's fine-tuning files.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from train.data.examples import Completion, Conversation, Example, Text
from train.data.options import DataOptions, FormatName
from train.data.problems import RowError, shortened
from train.data.turns import conversation, without_empty

_Value = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """One form of rows.

    Attributes:
        required: Keys that make a row one of this form.
        optional: Keys that it may have beside them.
        build: Makes the example; raises RowError.
    """

    required: frozenset[str]
    optional: frozenset[str]
    build: Callable[[_Value], Example]


@dataclass(frozen=True, slots=True)
class Formatted:
    """A record that was understood.

    Attributes:
        example: What it says.
        format: The form that it had.
        ignored: Keys that nothing reads, sorted.
    """

    example: Example
    format: FormatName
    ignored: tuple[str, ...]


def to_example(value: _Value, options: DataOptions) -> Formatted:
    """Read a record.

    Args:
        value: Keys and values as the file has them.
        options: Of which `format`, `columns` and `train_on` count here.

    Raises:
        RowError: the record breaks a rule.
    """
    renamed = _renamed(value, options.columns)
    name = detect(renamed) if options.format == "auto" else options.format
    form = None if name is None else FORMATS[name]
    if name is None or form is None or not form.required <= renamed.keys():
        raise _unknown(renamed, name)
    extra = sorted(renamed.keys() - form.required - form.optional)
    _refuse_typos(extra, form, renamed)
    example = form.build(renamed)
    if options.train_on == "last":
        example = _last_only(example)
    return Formatted(example, name, tuple(extra))


def detect(value: _Value) -> FormatName | None:
    """The form whose keys a record has; of several the first in the table above."""
    names: tuple[FormatName, ...] = get_args(FormatName)
    return next((name for name in names if FORMATS[name].required <= value.keys()), None)


def _renamed(value: _Value, columns: Mapping[str, str]) -> dict[str, Any]:
    # an absent value of a column, as Parquet and some writers of JSON have it, is no value
    rest = {name: one for name, one in value.items() if one is not None}
    for name, theirs in columns.items():
        if theirs not in value:
            raise RowError(
                "unknown-keys",
                f"the row has no key {theirs!r}; its keys are {shortened(sorted(value))}",
                f"correct columns, where {name} is {theirs}",
            )
    taken = {name: rest.pop(theirs) for name, theirs in columns.items() if theirs in rest}
    return rest | taken


def _unknown(value: _Value, name: FormatName | None) -> RowError:
    keys = ", ".join(sorted(map(str, value))) or "none"
    if name is not None:
        lacking = ", ".join(sorted(FORMATS[name].required - value.keys()))
        return RowError(
            "unknown-keys",
            f"the row lacks {lacking}, which the format {name} has; its keys are {keys}",
            "give columns, such as {prompt: question, completion: answer}, or another format",
        )
    forms = "; ".join(f"{n}: {', '.join(sorted(f.required))}" for n, f in FORMATS.items())
    return RowError(
        "unknown-keys",
        f"the row's keys are {keys}, which is no known format ({forms})",
        "name your keys in columns, such as {prompt: question, completion: answer}",
    )


def _refuse_typos(extra: list[str], form: Format, value: _Value) -> None:
    """A key that nothing reads and that is nearly one that is read would change what is learnt."""
    for name in extra:
        absent = sorted(form.optional - value.keys())
        if near := difflib.get_close_matches(name, absent, n=1, cutoff=0.8):
            raise RowError(
                "unknown-keys",
                f"the key {name!r} is not known",
                f"did you mean {near[0]!r}? If not, give it another name",
            )


def _messages(value: _Value) -> Conversation:
    values = value.get("chat_template_kwargs") or {}
    return conversation(value["messages"], tools=_tools(value), values=values)


def _sharegpt(value: _Value) -> Conversation:
    turns = value["conversations"]
    if isinstance(turns, list) and (system := without_empty(value.get("system"))):
        turns = [{"from": "system", "value": system}, *turns]
    return conversation(turns, tools=_tools(value))


def _alpaca(value: _Value) -> Conversation:
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


def _prompt_completion(value: _Value) -> Example:
    prompt, completion = value["prompt"], value["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        turns = [_dict(turn) | {"weight": 0} for turn in prompt]
        return conversation([*turns, *completion], tools=_tools(value))
    for name, text in (("prompt", prompt), ("completion", completion)):
        if not isinstance(text, str):
            raise RowError(
                "bad-messages",
                f"{name} is {shortened(text)}, a {type(text).__name__}",
                "give prompt and completion as two texts, or as two lists of messages",
            )
        _check_text(name, text)
    return Completion(prompt, completion)


def _text(value: _Value) -> Text:
    text = value["text"]
    if not isinstance(text, str):
        raise RowError(
            "bad-messages", f"text is {shortened(text)}, a {type(text).__name__}", "give a text"
        )
    _check_text("text", text)
    return Text(text)


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


def _dict(turn: Any) -> dict[str, Any]:
    if isinstance(turn, dict):
        return turn
    raise RowError(
        "bad-messages", f"a message is {shortened(turn)}", "give objects with role and content"
    )


def _system(value: _Value) -> list[dict[str, Any]]:
    system = without_empty(value.get("system"))
    return [] if system is None else [{"role": "system", "content": system}]


def _pair(question: Any, answer: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _tools(value: _Value) -> list[Any] | None:
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


def _last_only(example: Example) -> Example:
    if not isinstance(example, Conversation) or True not in example.supervised:
        return example
    last = len(example.supervised) - 1 - example.supervised[::-1].index(True)
    flags = tuple(index == last for index in range(len(example.supervised)))
    return Conversation(example.messages, flags, example.tools, example.values)


FORMATS: dict[FormatName, Format] = {
    "messages": Format(
        frozenset({"messages"}), frozenset({"tools", "chat_template_kwargs"}), _messages
    ),
    "sharegpt": Format(frozenset({"conversations"}), frozenset({"system", "tools"}), _sharegpt),
    "alpaca": Format(
        frozenset({"instruction", "output"}), frozenset({"input", "system", "history"}), _alpaca
    ),
    "prompt_completion": Format(
        frozenset({"prompt", "completion"}), frozenset({"tools"}), _prompt_completion
    ),
    "text": Format(frozenset({"text"}), frozenset(), _text),
}
