"""From the wire form of a request to one text and typed questions, checked.

Rules that a form cannot express are kept here: unique choices, texts that are not empty, tool
outputs that belong to a call, no images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal

import orjson

from ironcliw.errors import RequestError, RequestTooLargeError
from ironcliw.schemas.decisions import (
    ChoiceQuestion,
    CustomToolCall,
    DecisionRequest,
    FunctionCall,
    ImagePart,
    JsonPart,
    Message,
    PredicateQuestion,
    RefusalPart,
    ScoreQuestion,
    TextPart,
    ToolOutput,
)

Kind = Literal["predicate", "choice", "score"]


class UnfitQuestionError(RequestError):
    """One model cannot answer a question that another one may: it lacks the labels, or the way."""


MOST_CHARACTERS = 1_000_000
"""Of one text; longer ones would hold a tokenising thread for seconds."""

_MOST_JSON_BYTES = 262_144  # as the description of openai's DecisionInputJSON


@dataclass(frozen=True, slots=True)
class Option:
    """One choice or one level.

    Attributes:
        value: As the client gave it; a boolean is not the string of the same text.
        description: What it means, in the client's words.
        examples: Texts of this kind.
    """

    value: str | bool
    description: str | None = None
    examples: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The value as text."""
        return self.value if isinstance(self.value, str) else str(self.value).lower()


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        kind: `predicate` has no options; the others have at least two.
        name: As given.
        instructions: The statement of a predicate; what to look for in the others.
        options: Choices as given, or levels from the lowest to the highest.
        param: Where it stands in the request, for errors.
    """

    kind: Kind
    name: str | None
    instructions: str
    options: tuple[Option, ...] = ()
    param: str = "questions"

    @cached_property
    def texts(self) -> int:
        """How many texts it has: statement or instructions, options and examples."""
        return 1 + len(self.options) + sum([len(option.examples) for option in self.options])

    @cached_property
    def content(self) -> bytes:
        """Equal for questions of one kind with the same options, or the same statement."""
        options = [(o.value, o.description, o.examples) for o in self.options]
        written = orjson.dumps([self.kind, options or self.instructions])
        return blake2b(written, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Options:
    """How to answer, for all questions of a request.

    Attributes:
        template: Hypothesis of a label, with `{}` where the label goes.
        multi_label: Each choice has a probability of its own.
        priority: A name of `serve.batcher.Priority`, in lower case.
    """

    template: str
    multi_label: bool = False
    priority: str = "normal"


def read_questions(request: DecisionRequest) -> tuple[Question, ...]:
    """The request's questions.

    Raises:
        RequestError: a rule is broken; `param` says where.
    """
    return tuple(_question(form, index) for index, form in enumerate(request.questions))


def _question(form: PredicateQuestion | ChoiceQuestion | ScoreQuestion, index: int) -> Question:
    param = f"questions[{index}]"
    instructions = _content(form.instructions, f"{param}.instructions")
    if not instructions.strip():
        raise RequestError(
            f"{param}.instructions is empty; say what to decide", param=f"{param}.instructions"
        )
    check_length(instructions, f"{param}.instructions")
    options: tuple[Option, ...] = ()
    if isinstance(form, ChoiceQuestion):
        options = tuple(
            [Option(c.value, c.description, tuple(c.examples or ())) for c in form.choices]
        )
        _check_options(options, f"{param}.choices", "value")
    elif isinstance(form, ScoreQuestion):
        options = tuple([Option(level.label, level.description) for level in form.levels])
        _check_options(options, f"{param}.levels", "label")
    return Question(form.type, form.name, instructions, options, param)


def _check_options(options: Sequence[Option], param: str, field: str) -> None:
    seen: dict[tuple[type, str | bool], int] = {}
    for index, option in enumerate(options):
        # True == 1 and hash alike, but a string never equals a boolean: the type keeps them apart
        first = seen.setdefault((type(option.value), option.value), index)
        if first != index:
            raise RequestError(
                f"{param}[{index}].{field} is {option.value!r:.60}, as {param}[{first}].{field} "
                "is; each must be unique",
                param=param,
            )
        if not option.text.strip():
            raise RequestError(f"{param}[{index}].{field} is blank; name it", param=param)
        if any(not text.strip() for text in option.examples):
            raise RequestError(
                f"{param}[{index}].examples has an empty text; leave it out", param=param
            )


def read_input(request: DecisionRequest) -> str:
    """The input as one text: what was said, in order, with the role where there are several turns.

    Raises:
        RequestError: it is empty, has an image, or a tool output without its call.
        RequestTooLargeError: it has more than `MOST_CHARACTERS`.
    """
    given = request.input
    text = given if isinstance(given, str) else _conversation(given)
    if not text.strip():
        raise RequestError("input is empty; give a text to decide about", param="input")
    check_length(text, "input")
    return text


def check_length(text: str, param: str) -> None:
    """Raise RequestTooLargeError for a text beyond `MOST_CHARACTERS`."""
    if len(text) > MOST_CHARACTERS:
        raise RequestTooLargeError(
            f"{param} has {len(text)} characters; at most {MOST_CHARACTERS} are allowed in one "
            "text",
            param=param,
        )


def _conversation(items: Sequence[Any]) -> str:
    calls: set[str] = set()
    turns: list[tuple[str, str]] = []
    for index, item in enumerate(items):
        param = f"input[{index}]"
        if isinstance(item, Message):
            turns.append((item.role, _content(item.content, f"{param}.content")))
        elif isinstance(item, FunctionCall | CustomToolCall):
            calls.add(item.call_id)
            given = item.arguments if isinstance(item, FunctionCall) else item.input
            turns.append(("call", f"{item.name}({given})"))
        elif isinstance(item, ToolOutput):
            if item.call_id not in calls:
                raise RequestError(
                    f"{param}.call_id is {item.call_id!r:.60} and no call before it has that id",
                    param=param,
                )
            turns.append(("output", _content(item.output, f"{param}.output")))
    if not any(text.strip() for _, text in turns):
        return ""
    if len(turns) == 1:
        return turns[0][1]
    return "\n".join([f"{who}: {text}" for who, text in turns])


def _content(content: str | Sequence[Any], param: str) -> str:
    if isinstance(content, str):
        return content
    return "\n".join([_part(part, f"{param}[{index}]") for index, part in enumerate(content)])


def _part(part: TextPart | RefusalPart | JsonPart | ImagePart, param: str) -> str:
    if isinstance(part, TextPart):
        return part.text
    if isinstance(part, RefusalPart):
        return part.refusal
    if isinstance(part, JsonPart):
        encoded = orjson.dumps(part.data)
        if len(encoded) > _MOST_JSON_BYTES:
            raise RequestTooLargeError(
                f"{param} is {len(encoded)} bytes of JSON; at most {_MOST_JSON_BYTES} are allowed",
                param=param,
            )
        return encoded.decode()
    raise RequestError(
        f"{param} is an image, and no model here reads images; send text",
        param=param,
        code="images_unsupported",
    )


def require_template(template: str, param: str = "hypothesis_template") -> str:
    """The template, if it has a place for the label.

    Raises:
        RequestError: `{}` is not in it.
    """
    if "{}" not in template:
        raise RequestError(
            f"{param} is {template[:80]!r} and must contain {{}}, where the label goes",
            param=param,
        )
    return template
