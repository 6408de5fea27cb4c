"""`TransformerManager`: the service's engines in this very process, without Ray or HTTP."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from ironcliw.catalog import Catalog
from ironcliw.errors import UnsupportedError
from ironcliw.schemas import EmbeddingRequest
from ironcliw.settings import Settings, load_settings
from serve.embeddings import EmbeddingService
from serve.host import ModelHost
from serve.variants import LocalVariant

DEFAULT_MODEL = "all-MiniLM-L6-v2"


class TransformerManager:
    """Loads models on demand within the memory budget and runs them, batching what comes at once.

    Use it from one event loop, best as an async context manager::

        async with TransformerManager() as manager:
            vectors = await manager.batch_embed(["turn on the lights", "what time is it"])

    Args:
        settings: Budget, device, precision and models; None: from file and environment.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or load_settings()
        self._catalog = Catalog(self._settings.models)
        cache_dir = Path(self._settings.state_dir) / "models"
        self._host = ModelHost(self._catalog, self._settings.serve, cache_dir, socket.gethostname())
        self._embeddings = EmbeddingService(
            self._catalog, self._settings.serve, LocalVariant(self._host), cache_dir
        )

    async def load_model(self, model_name: str = DEFAULT_MODEL, *, pin: bool = False) -> None:
        """Load a model ahead of its first use.

        Raises:
            ModelNotFoundError: no such model.
            ModelLoadError: its files are absent, damaged or of a kind that is not supported.
            MemoryBudgetError: the budget has no room for it.
        """
        await self._host.load(model_name, pin=pin)

    async def unload_model(self, model_name: str, *, force: bool = False) -> None:
        """Free a model's memory once nothing uses it; `force` unloads a pinned one too."""
        await self._host.unload(model_name, force=force)
        self._embeddings.forget(model_name)

    async def generate_embedding(self, text: str, model_name: str = DEFAULT_MODEL) -> list[float]:
        """The vector of one text, D numbers."""
        return (await self.batch_embed([text], model_name))[0]

    async def batch_embed(
        self, texts: Sequence[str], model_name: str = DEFAULT_MODEL
    ) -> list[list[float]]:
        """Vectors of many texts in order, computed in batches.

        Raises:
            RequestError: no text, or an empty one.
            ModelNotFoundError, ModelLoadError, MemoryBudgetError: as for `load_model`.
        """
        most = self._settings.serve.max_batch_items
        rows: list[list[float]] = []
        for start in range(0, max(1, len(texts)), most):
            request = EmbeddingRequest(model=model_name, input=list(texts[start : start + most]))
            rows += (await self._embeddings.embed(request, None)).vectors.tolist()
        return rows

    async def classify_intent(self, text: str, labels: Sequence[str], **options: Any) -> NoReturn:
        """Not in this release."""
        raise UnsupportedError(
            "classify_intent comes with the decisions endpoint; this release has embeddings only"
        )

    async def generate_text(self, prompt: str, **options: Any) -> NoReturn:
        """Not in this release."""
        raise UnsupportedError(
            "generate_text comes with the generation endpoint; this release has embeddings only"
        )

    async def get_stats(self) -> dict[str, Any]:
        """Memory budget, bytes held, and device, load count and average time of each model."""
        return self._host.stats()

    async def close(self) -> None:
        """Free everything."""
        await self._embeddings.close()
        await self._host.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
