"""The wire format of the HTTP interface, as the official `openai` client sends and parses it.

Requests are validated strictly and refuse unknown fields; answers are written by `serve` as bytes
and documented by the models here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

Priority = Literal["critical", "high", "normal", "low"]
Scope = Literal["infer", "workflow", "admin"]
# Fail fast: collecting an error for each of a hundred thousand wrong items takes gigabytes.
Strings = Annotated[list[StrictStr], Field(fail_fast=True)]
Tokens = Annotated[list[StrictInt], Field(fail_fast=True)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class EmbeddingRequest(_Request):
    """`POST /v1/embeddings`. The fields after `user` are extensions of ours."""

    model: StrictStr = Field(description="A model id of `GET /v1/models`.")
    input: StrictStr | Strings | Tokens | Annotated[list[Tokens], Field(fail_fast=True)] = Field(
        description="One text, several texts, one token array or several token arrays."
    )
    dimensions: Annotated[StrictInt, Field(ge=1)] | None = Field(
        None, description="Keep the first N dimensions, then normalise again."
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="JSON numbers, or little-endian float32 in base64."
    )
    user: StrictStr | None = Field(None, description="Accepted and ignored.")
    truncate: StrictBool = Field(
        True, description="Cut inputs to the model's window; false: refuse longer ones."
    )
    prompt_name: StrictStr | None = Field(
        None, description="A prompt of the model's own, put before each text."
    )
    priority: Priority = Field("normal", description="Order among waiting requests.")


class Embedding(_Answer):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Numbers, or base64 where asked for.")


class Truncation(_Answer):
    """An input that was cut to the model's window."""

    index: int
    dropped_tokens: int


class Usage(_Answer):
    """Exact token counts, special tokens included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(_Answer):
    """Answer of `POST /v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage
    truncated: list[Truncation] | None = Field(
        None, description="Present when an input was longer than the model's window."
    )


class Model(_Answer):
    """One model; the fields after `owned_by` are ours."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    task: str
    bytes: int = Field(description="Size of the weights as published.")
    dimensions: int
    context: int
    licence: str
    available: bool = Field(description="A source is known; loading may still fail.")
    state: str = Field(description="absent, queued, loading, ready, in_use or unloading.")
    device: str | None = None
    precision: str | None = None
    resident_bytes: int = 0
    pinned: bool = False
    loads: int = 0
    uses: int = 0
    average_ms: float | None = None
    error: str | None = None


class ModelList(_Answer):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[Model]


class LoadRequest(_Request):
    """`POST /v1/models/{id}/load`."""

    pin: StrictBool = False
    ttl_seconds: Annotated[float, Field(gt=0)] | None = None
    stream: StrictBool = Field(False, description="Server-sent events with the progress.")


class UnloadRequest(_Request):
    """`POST /v1/models/{id}/unload`."""

    force: StrictBool = Field(False, description="Unload a pinned model as well.")


class ErrorDetail(_Answer):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(_Answer):
    """Every error on every path."""

    error: ErrorDetail


class Health(_Answer):
    """Answer of `/healthz` and `/readyz`."""

    status: Literal["ok", "starting", "unhealthy"]
    detail: dict[str, Any] | None = None
