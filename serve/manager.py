"""`TransformerManager`: the service's engines in this very process, without Ray or HTTP."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ironcliw.catalog import Catalog
from ironcliw.client import DEFAULT_CHAT_MODEL, DEFAULT_MODEL, choice_question
from ironcliw.errors import RequestError
from ironcliw.schemas import EmbeddingRequest
from ironcliw.schemas.decisions import ChoiceAnswer, DecisionRequest, DecisionResponse
from ironcliw.schemas.generation import ChatCompletionRequest, CompletionRequest
from ironcliw.settings import Settings, load_settings
from serve.decisions.service import DecisionService
from serve.embeddings import EmbeddingService
from serve.generation.answering import Answering
from serve.generation.service import GenerationService
from serve.generation_options import Message, Wanted, checked, request_fields
from serve.host import ModelHost, use_cpu_capability
from serve.variants import LocalVariant


class TransformerManager:
    """Loads models on demand within the memory budget and runs them, batching what comes at once.

    Use it from one event loop, best as an async context manager::

        async with TransformerManager() as manager:
            vectors = await manager.batch_embed(["turn on the lights", "what time is it"])

    Args:
        settings: Budget, device, precision and models; None: from file and environment.

    Raises:
        SettingsError: a setting is wrong, or this machine lacks the level `cpu_capability`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or load_settings()
        use_cpu_capability(self._settings.cpu_capability)
        self._catalog = Catalog.of(self._settings)
        cache_dir = Path(self._settings.state_dir) / "models"
        self._host = ModelHost(self._catalog, self._settings.serve, cache_dir, socket.gethostname())
        shared = (self._catalog, self._settings.serve, LocalVariant(self._host), cache_dir)
        self._embeddings = EmbeddingService(*shared)
        self._generation = GenerationService(*shared)
        self._decisions = DecisionService(*shared, self._embeddings, self._generation)

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
        for service in (self._embeddings, self._generation, self._decisions):
            service.forget(model_name)

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

    async def classify_intent(
        self,
        text: str,
        labels: Sequence[str] | Mapping[str, str],
        model_name: str = DEFAULT_MODEL,
        *,
        examples: Mapping[str, Sequence[str]] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """The label that fits a text best, or none; the model's task picks the method.

        Args:
            text: Any text.
            labels: 2 to 255 labels, or a description for each.
            model_name: An embedding, NLI, classifier or causal model.
            examples: Texts for any of the labels; embedding models only.
            options: Further fields of `POST /v1/decisions`, e.g. `refusal_threshold`.

        Returns:
            `label` (None: no label fits), `confidence` (its calibrated probability; None where no
            label fits), `scores` (probability of each label; empty where no label fits) and
            `truncated_tokens` (how many did not fit the model's window).

        Raises:
            RequestError: fewer than two labels, one of them twice, an unknown option.
            ModelNotFoundError, ModelLoadError, MemoryBudgetError: as for `load_model`.
        """
        described = labels if isinstance(labels, Mapping) else None
        question = choice_question(labels, described, examples)
        fields = {**options, "model": model_name, "input": text, "questions": [question]}
        body, _ = await self._decisions.decide(checked(DecisionRequest, fields), None)
        response = DecisionResponse.model_validate_json(body)
        [answer] = response.answers
        cut = {"truncated_tokens": response.truncated_tokens or 0}
        if not isinstance(answer, ChoiceAnswer):
            return {"label": None, "confidence": None, "scores": {}, **cut}
        scores = {str(row.value): row.probability for row in answer.probabilities}
        return {"label": answer.choice, "confidence": answer.confidence, "scores": scores, **cut}

    async def generate_text(
        self,
        prompt: str | Sequence[Message],
        model_name: str = DEFAULT_CHAT_MODEL,
        *,
        raw: bool = False,
        system: str | None = None,
        **options: Any,
    ) -> str:
        """The model's answer to a prompt.

        Args:
            prompt: A text, or the messages of a conversation. A model with a chat template reads a
                text as one message of the user; any other one goes on with it.
            model_name: A generating model.
            raw: Go on with the text as it is, whatever the model.
            system: What the model should be; needs a chat template.
            options: See `serve.generation_options.request_fields`: `max_length`, `temperature`,
                `do_sample`, `top_p`, `top_k`, `seed`, `stop`, ...

        Raises:
            RequestError, ContextLengthError: the request breaks a rule.
            ModelNotFoundError, ModelLoadError, MemoryBudgetError: as for `load_model`.
        """
        pieces = self.stream_text(prompt, model_name, raw=raw, system=system, **options)
        async with aclosing(pieces):
            return "".join([piece async for piece in pieces])

    async def stream_text(
        self,
        prompt: str | Sequence[Message],
        model_name: str = DEFAULT_CHAT_MODEL,
        *,
        raw: bool = False,
        system: str | None = None,
        **options: Any,
    ) -> AsyncGenerator[str]:
        """The same, piece by piece as it is made; closing the generator ends the work."""
        wanted = Wanted.of(prompt, raw=raw, system=system)
        async with aclosing(self.stream_wanted(wanted, model_name, options)) as pieces:
            async for piece in pieces:
                yield piece

    async def stream_wanted(
        self, wanted: Wanted, model_name: str, options: Mapping[str, Any]
    ) -> AsyncGenerator[str]:
        """As `stream_text`, of a prompt that was read already."""
        side = await self._generation.text_side(model_name)
        fields = {**request_fields(options, side.context), "model": model_name}
        answering = await self._open(wanted, fields)
        async with aclosing(answering):
            async for _, piece in answering:
                if piece.text:
                    yield piece.text

    async def _open(self, wanted: Wanted, fields: dict[str, Any]) -> Answering:
        if wanted.messages is not None:
            chat = checked(ChatCompletionRequest, {**fields, "messages": wanted.messages})
            try:
                return await self._generation.open_chat(chat, None)
            except RequestError as error:
                if not wanted.may_complete(error):
                    raise
        completion = checked(CompletionRequest, {**fields, "prompt": wanted.text})
        return await self._generation.open_completion(completion, None)

    async def get_stats(self) -> dict[str, Any]:
        """Memory budget, bytes held, and device, load count and average time of each model."""
        return self._host.stats()

    async def close(self) -> None:
        """Free everything."""
        await self._decisions.close()
        await self._generation.close()
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
