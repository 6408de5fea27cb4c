"""`AsyncClient`; a test keeps its methods those of `ironcliw.client.Client`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from ironcliw import _calls as calls
from ironcliw import _decisions as decisions
from ironcliw import _generation as generation
from ironcliw._calls import DEFAULT_MODEL, Embeddings, LoadProgress
from ironcliw._connection import AsyncTextStream
from ironcliw._decisions import Classification, Decision, Examples, Labels, Messages
from ironcliw._generation import DEFAULT_CHAT_MODEL, Completion, GenerationOptions, Message
from ironcliw._workflow_methods import AsyncWorkflowMethods
from ironcliw.errors import UnavailableError
from ironcliw.schemas import Health, Model, Priority


class AsyncClient(AsyncWorkflowMethods):
    """The same for asyncio; each method does what `Client`'s does."""

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        truncate: bool = True,
        priority: Priority = "normal",
    ) -> Embeddings:
        """Embed one text or several, as `Client.embed` does."""
        fields = {"model": model, "dimensions": dimensions, "prompt_name": prompt_name}
        fields |= {"truncate": truncate, "priority": priority}
        return await self._run(calls.embed_call(texts, fields))

    async def decide(
        self,
        input: str | Messages,
        questions: Sequence[Mapping[str, Any]],
        *,
        model: str = DEFAULT_MODEL,
        method: str | None = None,
        **extensions: Any,
    ) -> Decision:
        """Answer questions about a text or a conversation, as `Client.decide` does."""
        fields = {**extensions, "model": model, "method": method}
        return await self._run(decisions.decision_call(input, questions, fields))

    async def classify(
        self,
        text: str,
        labels: Labels,
        *,
        model: str = DEFAULT_MODEL,
        multi_label: bool = False,
        examples: Examples | None = None,
        **extensions: Any,
    ) -> Classification:
        """The label that fits a text best, or none, as `Client.classify` does."""
        fields = {**extensions, "model": model, "multi_label": multi_label or None}
        return await self._run(decisions.classify_call(text, labels, examples, fields))

    async def chat(
        self,
        messages: str | Sequence[Message],
        *,
        model: str = DEFAULT_CHAT_MODEL,
        **options: Unpack[GenerationOptions],
    ) -> Completion:
        """The answer to a conversation, as `Client.chat` does."""
        return await self._run(generation.chat_call(messages, {**options, "model": model}))

    async def complete(
        self,
        prompt: str,
        *,
        model: str = DEFAULT_CHAT_MODEL,
        **options: Unpack[GenerationOptions],
    ) -> Completion:
        """How a text goes on, as `Client.complete` does."""
        return await self._run(generation.completion_call(prompt, {**options, "model": model}))

    def stream_chat(
        self,
        messages: str | Sequence[Message],
        *,
        model: str = DEFAULT_CHAT_MODEL,
        **options: Unpack[GenerationOptions],
    ) -> AsyncTextStream:
        """The answer to a conversation, piece by piece, as `Client.stream_chat` does."""
        call = generation.chat_call(messages, {**options, "model": model})
        return self._stream(generation.streamed(call))

    def stream(
        self,
        prompt: str,
        *,
        model: str = DEFAULT_CHAT_MODEL,
        **options: Unpack[GenerationOptions],
    ) -> AsyncTextStream:
        """How a text goes on, piece by piece, as `Client.stream` does."""
        call = generation.completion_call(prompt, {**options, "model": model})
        return self._stream(generation.streamed(call))

    async def models(self) -> list[Model]:
        """Every model of the server's catalogue, loaded or not."""
        return await self._run(calls.models_call())

    async def model(self, model_id: str) -> Model:
        """One model."""
        return await self._run(calls.model_call(model_id))

    async def load_model(
        self,
        model_id: str,
        *,
        pin: bool = False,
        ttl_seconds: float | None = None,
        progress: Callable[[LoadProgress], None] | None = None,
    ) -> Model:
        """Load a model and wait until it is ready, as `Client.load_model` does."""
        await self._run(calls.load_call(model_id, pin, ttl_seconds, progress))
        return await self.model(model_id)

    async def unload_model(self, model_id: str, *, force: bool = False) -> Model:
        """Unload a model."""
        await self._run(calls.unload_call(model_id, force))
        return await self.model(model_id)

    async def health(self) -> Health:
        """Whether the server's process answers."""
        return await self._health("/healthz")

    async def ready(self) -> Health:
        """Whether each pinned model has just done a forward pass."""
        return await self._health("/readyz")

    async def status(self) -> dict[str, Any]:
        """Nodes, models, queues, memory and what is degraded."""
        return await self._run(calls.status_call())

    async def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send JSON to any route and return the JSON that it answers."""
        return await self._run(calls.raw_call(method, path, body))

    async def _health(self, path: str) -> Health:
        try:
            return await self._run(calls.health_call(path))
        except UnavailableError as error:
            return calls.unhealthy(error)
