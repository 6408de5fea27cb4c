"""`POST /v1/decisions`, as the official client sends it, and `POST /v1/classify`.

The form is that of `openai.types.decision_create_params`; what it lacks is marked as an extension
(the client sends those with `extra_body`). Images are parsed so that they can be refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StrictBool, StrictStr, Tag

from ironcliw.schemas.base import Answer, Priority, Request, Strings

MethodName = Literal["embedding", "nli", "classifier", "lm", "head"]
DEFAULT_TEMPLATE = "This example is {}."
"""Hypothesis of a label, the default of transformers' zero-shot pipeline."""

_Name = Annotated[StrictStr, Field(max_length=512)]
_Label = Annotated[StrictStr, Field(min_length=1)]
_Ignored = dict[str, Any] | None


class TextPart(Request):
    """Text of a message, a tool's output or a question."""

    type: Literal["input_text", "output_text"]
    text: StrictStr
    prompt_cache_breakpoint: _Ignored = Field(None, description="Accepted and ignored.")


class RefusalPart(Request):
    """What an assistant said when it declined."""

    type: Literal["refusal"]
    refusal: StrictStr


class JsonPart(Request):
    """JSON, read as compact text."""

    type: Literal["input_json"]
    data: dict[str, Any] | list[dict[str, Any]]


class ImagePart(Request):
    """Refused: no model here reads images."""

    type: Literal["input_image"]
    image_url: Any = None
    detail: Any = None
    prompt_cache_breakpoint: Any = None


Part = Annotated[TextPart | RefusalPart | JsonPart | ImagePart, Field(discriminator="type")]
Parts = Annotated[list[Part], Field(fail_fast=True)]


class Message(Request):
    """One turn of a conversation."""

    type: Literal["message"] = "message"
    role: Literal["user", "developer", "system", "assistant"]
    content: StrictStr | Parts
    phase: StrictStr | None = Field(None, description="Accepted and ignored.")


class _ToolItem(Request):
    call_id: StrictStr
    id: StrictStr | None = None
    namespace: StrictStr | None = None
    status: StrictStr | None = None


class FunctionCall(_ToolItem):
    """A call that the assistant made."""

    type: Literal["function_call"]
    name: StrictStr
    arguments: StrictStr


class CustomToolCall(_ToolItem):
    """A call of a custom tool."""

    type: Literal["custom_tool_call"]
    name: StrictStr
    input: StrictStr


class ToolOutput(_ToolItem):
    """What a function or a custom tool answered to the call of that `call_id`."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    output: StrictStr | Parts


def _item_tag(value: Any) -> str:
    # the type of a message may be left out
    kind = value.get("type", "message") if isinstance(value, dict) else "message"
    return "tool_output" if str(kind).endswith("_output") else str(kind)


Item = Annotated[
    Annotated[Message, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[CustomToolCall, Tag("custom_tool_call")]
    | Annotated[ToolOutput, Tag("tool_output")],
    Discriminator(_item_tag),
]


class PredicateQuestion(Request):
    """How likely is it that a statement about the input is true?"""

    type: Literal["predicate"]
    name: _Name | None = None
    instructions: StrictStr | Parts


class ChoiceOption(Request):
    """One choice. A string and a boolean of the same text are distinct."""

    value: _Label | StrictBool
    description: StrictStr | None = Field(None, description="What the choice means.")
    examples: Strings | None = Field(
        None, description="Extension: texts of this kind (method `embedding`)."
    )


class ChoiceQuestion(Request):
    """Which of the choices fits the input?"""

    type: Literal["choice"]
    name: _Name | None = None
    instructions: StrictStr | Parts
    choices: Annotated[list[ChoiceOption], Field(min_length=2, max_length=255, fail_fast=True)] = (
        Field(description="2 to 255, each one unique.")
    )


class ScoreLevel(Request):
    """One level of a scale."""

    label: _Label
    description: StrictStr | None = None


class ScoreQuestion(Request):
    """Where on the scale is the input?"""

    type: Literal["score"]
    name: _Name | None = None
    instructions: StrictStr | Parts
    levels: Annotated[list[ScoreLevel], Field(min_length=2, max_length=255, fail_fast=True)] = (
        Field(description="2 to 255, from the lowest to the highest.")
    )


QuestionForm = Annotated[
    PredicateQuestion | ChoiceQuestion | ScoreQuestion, Field(discriminator="type")
]


class DecisionRequest(Request):
    """`POST /v1/decisions`. The fields from `method` on are extensions of ours."""

    model: StrictStr = Field(description="A model id of `GET /v1/models`.")
    input: StrictStr | Annotated[list[Item], Field(fail_fast=True)] = Field(
        description="A text, or messages, calls and their outputs in order."
    )
    questions: Annotated[
        list[QuestionForm], Field(min_length=1, max_length=400, fail_fast=True)
    ] = Field(description="1 to 400; answered in this order.")
    prompt_cache_key: StrictStr | None = Field(None, description="Accepted and ignored.")
    prompt_cache_options: _Ignored = Field(None, description="Accepted and ignored.")
    safety_identifier: StrictStr | None = Field(None, description="Accepted and ignored.")
    method: MethodName | None = Field(
        None, description="How to decide; left out, the model's task says it."
    )
    hypothesis_template: StrictStr | None = Field(
        None, description=f"Method `nli`: with {{}} for the label; default `{DEFAULT_TEMPLATE}`"
    )
    multi_label: StrictBool = Field(
        False, description="Method `nli`: each choice has a probability of its own."
    )
    refusal_threshold: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Refuse below this probability; left out, the method's own, if any."
    )
    priority: Priority = Field("normal", description="Order among waiting requests.")


class ClassifyParameters(Request):
    """As of transformers' zero-shot pipeline."""

    candidate_labels: StrictStr | Strings | None = Field(
        None, description="Labels, or one text with commas between them."
    )
    multi_label: StrictBool = False
    hypothesis_template: StrictStr | None = None


class ClassifyRequest(Request):
    """`POST /v1/classify`, in the shape of Hugging Face's zero-shot classification."""

    model: StrictStr | None = Field(
        None, description="A model id; left out, the first pinned model that can classify."
    )
    inputs: StrictStr | Strings
    parameters: ClassifyParameters = ClassifyParameters()
    priority: Priority = "normal"


class ZeroShotResult(Answer):
    """Labels of one text, likeliest first."""

    sequence: str
    labels: list[str]
    scores: list[float]


class LabelScore(Answer):
    """One label of a classifier."""

    label: str
    score: float


DECIDED_BY: Any = Field(
    None, description="Extension: of a cascade, the model that was sure enough; else absent."
)


class PredicateAnswer(Answer):
    """Probability that the statement is true."""

    type: Literal["predicate"] = "predicate"
    name: str | None
    decided_by: str | None = DECIDED_BY
    probability: float


class ChoiceProbability(Answer):
    """Of one choice."""

    value: str | bool
    probability: float


class ChoiceAnswer(Answer):
    """The likeliest choice, and every choice's probability in the order asked."""

    type: Literal["choice"] = "choice"
    name: str | None
    decided_by: str | None = DECIDED_BY
    choice: str | bool
    confidence: float
    probabilities: list[ChoiceProbability]


class LevelProbability(Answer):
    """Of one level; the lowest has the value 1."""

    label: str
    value: int
    probability: float


class ScoreAnswer(Answer):
    """The mean of the levels' values under their probabilities."""

    type: Literal["score"] = "score"
    name: str | None
    decided_by: str | None = DECIDED_BY
    score: float
    confidence: float
    probabilities: list[LevelProbability]


class RefusalAnswer(Answer):
    """None of the choices seems to fit."""

    type: Literal["refusal"] = "refusal"
    name: str | None
    decided_by: str | None = DECIDED_BY


class DecisionUsage(Answer):
    """Tokens that the answers are made from, those of labels and examples included."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class DecisionResponse(Answer):
    """Answer of `POST /v1/decisions`, in the order of the questions."""

    model: str
    answers: list[
        Annotated[
            PredicateAnswer | ChoiceAnswer | ScoreAnswer | RefusalAnswer,
            Field(discriminator="type"),
        ]
    ]
    usage: DecisionUsage
    truncated_tokens: int | None = Field(
        None,
        description="Present when the input, or a label or example of the method `embedding`, was "
        "cut to the model's window: so many tokens did not fit.",
    )
