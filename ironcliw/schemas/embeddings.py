"""`POST /v1/embeddings`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from ironcliw.schemas.base import Answer, Priority, Request, Strings, Tokens


class EmbeddingRequest(Request):
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


class Embedding(Answer):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Numbers, or base64 where asked for.")


class Truncation(Answer):
    """An input that was cut to the model's window."""

    index: int
    dropped_tokens: int


class Usage(Answer):
    """Exact token counts, special tokens included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(Answer):
    """Answer of `POST /v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage
    truncated: list[Truncation] | None = Field(
        None, description="Present when an input was longer than the model's window."
    )
