"""Records to examples: chat messages, ShareGPT, Alpaca, prompt and completion, plain text.

    messages            {"messages": [{"role", "content"}, ...]}, also "tools"
    sharegpt            {"conversations": [{"from", "value"}, ...]}, also "system", "tools"
    alpaca              {"instruction", "output"}, also "input", "system", "history"
    prompt_completion   {"prompt", "completion"}, each a text or a list of messages, also "tools"
    preference          {"chosen", "rejected"} with "prompt", as above; without it two lists of
                        messages, whose equal beginning is the prompt
    sharegpt_preference {"conversations", "chosen", "rejected"}, the latter a message each
    text                {"text"}, of which every token is learnt

and for encoders those of `train.data.groups`: triplet, pair, labelled.

`history` holds earlier [question, answer] pairs, whose answers are supervised too, as in
LLaMA-Factory (https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md). A message with
`"weight": 0` is not supervised, as in OpenAI's fine-tuning files.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from train.data.builders import alpaca, messages, prompt_completion, sharegpt, text
from train.data.examples import Conversation, Example
from train.data.groups import labelled, pair, triplet
from train.data.options import DataOptions, FormatName
from train.data.preferences import preference, sharegpt_preference
from train.data.problems import RowError, shortened

_Value = Mapping[str, Any]
_KINDS = ("a model that writes", "an embedding model")
"""By whether it compares texts."""


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


def to_example(value: _Value, options: DataOptions, *, groups: bool = False) -> Formatted:
    """Read a record.

    Args:
        value: Keys and values as the file has them.
        options: Of which `format`, `columns` and `train_on` count here.
        groups: Whether texts are to be compared by their vectors.

    Raises:
        RowError: the record breaks a rule.
    """
    renamed = _renamed(value, options.columns)
    forms = GROUP_FORMATS if groups else FORMATS
    name = detect(renamed, forms) if options.format == "auto" else options.format
    form = None if name is None else forms.get(name)
    if name is None or form is None or not form.required <= renamed.keys():
        raise _unknown(renamed, name, forms)
    extra = sorted(renamed.keys() - form.required - form.optional)
    _refuse_typos(extra, form, renamed)
    example = form.build(renamed)
    if options.train_on == "last":
        example = _last_only(example)
    return Formatted(example, name, tuple(extra))


def detect(value: _Value, forms: Mapping[FormatName, Format] | None = None) -> FormatName | None:
    """The form whose keys a record has; of several the first in the order of `FormatName`.

    Args:
        value: Of the record.
        forms: To choose from; None: those of answers to be imitated and of preferences.
    """
    given = FORMATS if forms is None else forms
    names: list[FormatName] = [name for name in get_args(FormatName) if name in given]
    return next((name for name in names if given[name].required <= value.keys()), None)


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


def _unknown(
    value: _Value, name: FormatName | None, forms: Mapping[FormatName, Format]
) -> RowError:
    keys = ", ".join(sorted(map(str, value))) or "none"
    if name is not None and name not in forms:
        return RowError(
            "unknown-keys",
            f"the format {name} is not for this kind of model",
            f"give auto, or one of {', '.join(forms)}",
        )
    if name is not None:
        lacking = ", ".join(sorted(forms[name].required - value.keys()))
        return RowError(
            "unknown-keys",
            f"the row lacks {lacking}, which the format {name} has; its keys are {keys}",
            "give columns, such as {prompt: question, completion: answer}, or another format",
        )
    compares = "pair" in forms
    example = "anchor: query" if compares else "prompt: question, completion: answer"
    if (other := detect(value, FORMATS if compares else GROUP_FORMATS)) is not None:
        kind, fitting = _KINDS[compares], _KINDS[not compares]
        return RowError(
            "unknown-keys",
            f"the row's keys are {keys}: the format {other}, which {fitting} learns from, and "
            f"this is {kind}",
            f"choose another model, or name your keys in columns, such as {{{example}}}",
        )
    known = "; ".join(f"{n}: {', '.join(sorted(f.required))}" for n, f in forms.items())
    return RowError(
        "unknown-keys",
        f"the row's keys are {keys}, which is no known format ({known})",
        f"name your keys in columns, such as {{{example}}}",
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


def _last_only(example: Example) -> Example:
    if not isinstance(example, Conversation) or True not in example.supervised:
        return example
    last = len(example.supervised) - 1 - example.supervised[::-1].index(True)
    flags = tuple(index == last for index in range(len(example.supervised)))
    return Conversation(example.messages, flags, example.tools, example.values)


FORMATS: dict[FormatName, Format] = {
    "preference": Format(
        frozenset({"chosen", "rejected"}), frozenset({"prompt", "tools"}), preference
    ),
    "sharegpt_preference": Format(
        frozenset({"conversations", "chosen", "rejected"}),
        frozenset({"system", "tools"}),
        sharegpt_preference,
    ),
    "messages": Format(
        frozenset({"messages"}), frozenset({"tools", "chat_template_kwargs"}), messages
    ),
    "sharegpt": Format(frozenset({"conversations"}), frozenset({"system", "tools"}), sharegpt),
    "alpaca": Format(
        frozenset({"instruction", "output"}), frozenset({"input", "system", "history"}), alpaca
    ),
    "prompt_completion": Format(
        frozenset({"prompt", "completion"}), frozenset({"tools"}), prompt_completion
    ),
    "text": Format(frozenset({"text"}), frozenset(), text),
}
GROUP_FORMATS: dict[FormatName, Format] = {
    "triplet": Format(frozenset({"anchor", "positive", "negative"}), frozenset(), triplet),
    "pair": Format(frozenset({"anchor", "positive"}), frozenset({"negative"}), pair),
    "labelled": Format(frozenset({"text", "label"}), frozenset(), labelled),
}
