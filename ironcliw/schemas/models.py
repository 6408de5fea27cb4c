"""Models, health and errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictStr

from ironcliw.schemas.base import Answer, Request


class Model(Answer):
    """One model; the fields after `owned_by` are ours."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    parent: str | None = Field(
        None, description="What an adapter changes, or an alias stands for; null for other models."
    )
    task: str
    bytes: int = Field(description="Size of the weights as published.")
    dimensions: int
    context: int
    licence: str
    available: bool = Field(description="A source is known; loading may still fail.")
    state: str = Field(description="absent, queued, loading, ready, in_use or unloading.")
    device: str | None = None
    precision: str | None = Field(None, description="It computes in.")
    precision_reason: str | None = Field(
        None, description="Why that is not `serve.precision`; null where it is."
    )
    resident_bytes: int = Field(0, description="Counted against the budget, `kv_bytes` included.")
    kv_bytes: int = Field(0, description="What the KV cache may grow to.")
    pinned: bool = False
    loads: int = 0
    uses: int = 0
    average_ms: float | None = None
    error: str | None = None


class ModelList(Answer):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[Model]


class LoadRequest(Request):
    """`POST /v1/models/{id}/load`."""

    pin: StrictBool = False
    ttl_seconds: Annotated[float, Field(gt=0)] | None = None
    stream: StrictBool = Field(False, description="Server-sent events with the progress.")


class UnloadRequest(Request):
    """`POST /v1/models/{id}/unload`."""

    force: StrictBool = Field(False, description="Unload a pinned model as well.")


class PromoteRequest(Request):
    """`POST /v1/aliases/{alias}/promote`."""

    model: StrictStr = Field(description="A model id; an adapter without a version: its newest.")
    percent: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None = Field(
        None, description="Share of the requests that go to it; unset or 100: all."
    )


class ModelAlias(Answer):
    """A name that stands for a model."""

    id: str
    object: Literal["alias"] = "alias"
    created: int = Field(description="When it was made so, Unix time.")
    model: str = Field(description="Who answers.")
    canary: str | None = Field(None, description="Who answers a share of the requests.")
    percent: float | None = Field(None, description="That share.")


class AliasList(Answer):
    """Answer of `GET /v1/aliases`."""

    object: Literal["list"] = "list"
    data: list[ModelAlias]


class ErrorDetail(Answer):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Answer):
    """Every error on every path."""

    error: ErrorDetail


class Health(Answer):
    """Answer of `/healthz` and `/readyz`."""

    status: Literal["ok", "starting", "unhealthy"]
    detail: dict[str, Any] | None = None
