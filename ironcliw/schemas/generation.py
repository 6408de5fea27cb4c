"""`POST /v1/chat/completions` and `POST /v1/completions`.

Every field that the official `openai` client can send is known here. Some change nothing and are
ignored; some would change the answer and are not served yet: those are refused by name, never
ignored in silence (`serve.generation.requests`). Extensions of ours go into `extra_body`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from ironcliw.schemas.base import Answer, Priority, Request, Strings, Tokens

INT64 = 2**63

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
FinishReason = Literal["stop", "length"]
Count = Annotated[StrictInt, Field(ge=1, lt=INT64)]
Penalty = Annotated[float, Field(strict=True, ge=-2, le=2, allow_inf_nan=False)]
Bias = Annotated[float, Field(strict=True, ge=-100, le=100, allow_inf_nan=False)]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]

_IGNORED = "Accepted and ignored."
_REFUSED = "Not served yet: refused."


class StreamOptions(Request):
    """What a stream carries beside the text."""

    include_usage: StrictBool | None = Field(
        None, description="A last chunk with the usage and no choices."
    )
    include_obfuscation: StrictBool | None = Field(None, description=_IGNORED)


class GenerationRequest(Request):
    """What both ways of asking for text share."""

    model: StrictStr = Field(description="A model id of `GET /v1/models`.")
    temperature: Annotated[float, Field(strict=True, ge=0, le=2, allow_inf_nan=False)] | None = (
        Field(None, description="0: the likeliest token. Unset: the model's own, else 1.")
    )
    top_p: Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="Draw from the smallest set of tokens with this probability together."
    )
    n: Annotated[StrictInt, Field(ge=1, le=16)] | None = Field(
        None, description="Answers to each prompt; unset: 1."
    )
    stop: StrictStr | Strings | None = Field(
        None,
        description="Up to 16 texts of 1 to 512 characters that end an answer and are not part "
        "of it.",
    )
    max_tokens: Count | None = Field(None, description="Most tokens of an answer.")
    presence_penalty: Penalty | None = Field(None, description="Taken off tokens used already.")
    frequency_penalty: Penalty | None = Field(None, description="The same, times how often.")
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=1024)] | None = Field(
        None, description="Token id: what is added to its logit."
    )
    seed: Annotated[StrictInt, Field(ge=-INT64, lt=INT64)] | None = Field(
        None, description="The same seed gives the same answers."
    )
    stream: StrictBool | None = Field(None, description="Server-sent events as the text grows.")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")
    user: StrictStr | None = Field(None, description=_IGNORED)
    top_k: Annotated[StrictInt, Field(ge=0, lt=2**31)] | None = Field(
        None, description="Extension: draw from the k likeliest tokens; 0: from all."
    )
    repetition_penalty: (
        Annotated[float, Field(strict=True, gt=0, le=10, allow_inf_nan=False)] | None
    ) = Field(None, description="Extension: of tokens in prompt or answer; 1: none.")
    ignore_eos: StrictBool = Field(
        False, description="Extension: go on to `max_tokens`, for measurements."
    )
    priority: Priority = Field("normal", description="Extension: order among waiting requests.")


class ContentPart(BaseModel):
    """A part of a message; only those of type `text` are served."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: StrictStr
    text: StrictStr | None = None


class Message(Request):
    """One turn of a conversation."""

    role: Role = Field(description="`tool` and `function` are not served yet.")
    content: StrictStr | Annotated[list[ContentPart], Field(fail_fast=True)] | None = Field(
        None, description="A text, or parts of type `text`, which are joined by line ends."
    )
    name: StrictStr | None = Field(None, description=_IGNORED)
    refusal: StrictStr | None = Field(None, description=_IGNORED)
    tool_call_id: StrictStr | None = Field(None, description=_REFUSED)
    tool_calls: Any = Field(None, description=_REFUSED)
    function_call: Any = Field(None, description=_REFUSED)
    audio: Any = Field(None, description=_REFUSED)
    annotations: Any = Field(None, description=_IGNORED)


class ChatCompletionRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)] = Field(
        description="The conversation so far."
    )
    max_completion_tokens: Count | None = Field(
        None, description="The newer name of `max_tokens`; unset: as many as the context holds."
    )
    logprobs: StrictBool | None = Field(None, description="Report each token's log-probability.")
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = Field(
        None, description="And those of as many of the likeliest tokens; needs `logprobs`."
    )
    response_format: dict[str, Any] | None = Field(None, description='Only {"type": "text"}.')
    modalities: list[StrictStr] | None = Field(None, description='Only ["text"].')
    metadata: dict[str, Any] | None = Field(None, description=_IGNORED)
    store: StrictBool | None = Field(None, description=_IGNORED)
    service_tier: StrictStr | None = Field(None, description=_IGNORED)
    safety_identifier: StrictStr | None = Field(None, description=_IGNORED)
    prompt_cache_key: StrictStr | None = Field(None, description=_IGNORED)
    prompt_cache_options: dict[str, Any] | None = Field(None, description=_IGNORED)
    prompt_cache_retention: StrictStr | None = Field(None, description=_IGNORED)
    prediction: dict[str, Any] | None = Field(None, description=_IGNORED)
    parallel_tool_calls: StrictBool | None = Field(None, description=_IGNORED)
    tool_choice: Any = Field(None, description='Only "none" or "auto".')
    function_call: Any = Field(None, description='Only "none" or "auto".')
    tools: list[Any] | None = Field(None, description=_REFUSED)
    functions: list[Any] | None = Field(None, description=_REFUSED)
    audio: dict[str, Any] | None = Field(None, description=_REFUSED)
    moderation: dict[str, Any] | None = Field(None, description=_REFUSED)
    reasoning_effort: StrictStr | None = Field(None, description=_REFUSED)
    verbosity: StrictStr | None = Field(None, description='Only "medium".')
    web_search_options: dict[str, Any] | None = Field(None, description=_REFUSED)


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`."""

    prompt: StrictStr | Strings | Tokens | Annotated[list[Tokens], Field(fail_fast=True)] = Field(
        description="One text, several texts, one token array or several token arrays."
    )
    max_tokens: Count | None = Field(None, description="Most tokens of an answer; unset: 16.")
    logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = Field(
        None, description="Report the log-probabilities of as many of the likeliest tokens."
    )
    echo: StrictBool | None = Field(
        None, description="Put the prompt before each answer; not with `logprobs`."
    )
    best_of: Annotated[StrictInt, Field(ge=1)] | None = Field(None, description="Only as `n`.")
    suffix: StrictStr | None = Field(None, description=_REFUSED)


class CompletionUsage(Answer):
    """Exact token counts over all answers; a prompt of `n` answers counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(Answer):
    """A token that could have stood there."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """One token of an answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """Log-probabilities of an answer's tokens, before temperature and penalties."""

    content: list[TokenLogprob] | None


class ChatMessage(Answer):
    """The answer's text."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: str | None = None


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Answer):
    """Answer of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: CompletionUsage


class ChatDelta(Answer):
    """What a chunk adds; the first of each answer has the role."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(Answer):
    """The growth of one answer."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(Answer):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: CompletionUsage | None = None


class CompletionLogprobs(Answer):
    """Log-probabilities in the older form: parallel lists, an entry a token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int] = Field(description="Characters before the token in `text`.")


class CompletionChoice(Answer):
    """One answer, or in a stream its growth."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None


class Completion(Answer):
    """Answer of `POST /v1/completions`, and each event of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None
