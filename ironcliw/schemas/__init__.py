"""The wire format of the HTTP interface, as the official `openai` client sends and parses it."""

from __future__ import annotations

from ironcliw.schemas.base import Answer, Priority, Request, Scope
from ironcliw.schemas.embeddings import (
    Embedding,
    EmbeddingRequest,
    EmbeddingResponse,
    Truncation,
    Usage,
)
from ironcliw.schemas.models import (
    AliasList,
    ErrorDetail,
    ErrorResponse,
    Health,
    LoadRequest,
    Model,
    ModelAlias,
    ModelList,
    PromoteRequest,
    UnloadRequest,
)

__all__ = [
    "AliasList",
    "Answer",
    "Embedding",
    "EmbeddingRequest",
    "EmbeddingResponse",
    "ErrorDetail",
    "ErrorResponse",
    "Health",
    "LoadRequest",
    "Model",
    "ModelAlias",
    "ModelList",
    "Priority",
    "PromoteRequest",
    "Request",
    "Scope",
    "Truncation",
    "UnloadRequest",
    "Usage",
]
