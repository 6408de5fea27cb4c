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
    ErrorDetail,
    ErrorResponse,
    Health,
    LoadRequest,
    Model,
    ModelList,
    UnloadRequest,
)

__all__ = [
    "Answer",
    "Embedding",
    "EmbeddingRequest",
    "EmbeddingResponse",
    "ErrorDetail",
    "ErrorResponse",
    "Health",
    "LoadRequest",
    "Model",
    "ModelList",
    "Priority",
    "Request",
    "Scope",
    "Truncation",
    "UnloadRequest",
    "Usage",
]
