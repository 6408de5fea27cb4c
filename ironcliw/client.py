"""A typed client of the HTTP interface; needs neither Ray nor torch nor numpy.

    with Client() as client:
        vectors = client.embed(["a text", "another"]).vectors

Whoever has code on the official `openai` client keeps it: the server speaks that interface too.
This one adds what that one cannot know: who answered, truncation, loading and unloading models,
and the errors of `ironcliw.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from ironcliw import _calls as calls
from ironcliw import _decisions as decisions
from ironcliw import _generation as generation
from ironcliw._async_client import AsyncClient
from ironcliw._calls import DEFAULT_MODEL, Embeddings, LoadProgress, Served
from ironcliw._connection import AsyncTextStream, TextStream
from ironcliw._decisions import (
    ChoiceAnswer,
    Classification,
    Decision,
    DecisionAnswer,
    Examples,
    Labels,
    Messages,
    PredicateAnswer,
    Refusal,
    ScoreAnswer,
    choice_question,
    predicate_question,
    score_question,
)
from ironcliw._generation import (
    DEFAULT_CHAT_MODEL,
    Choice,
    Completion,
    GenerationOptions,
    Message,
    TokenUsage,
)
from ironcliw._workflow_methods import WorkflowMethods
from ironcliw.errors import UnavailableError
from ironcliw.schemas import Health, Model, Priority

__all__ = [
    "DEFAULT_CHAT_MODEL",
    "DEFAULT_MODEL",
    "AsyncClient",
    "AsyncTextStream",
    "Choice",
    "ChoiceAnswer",
    "Classification",
    "Client",
    "Completion",
    "Decision",
    "DecisionAnswer",
    "Embeddings",
    "GenerationOptions",
    "LoadProgress",
    "PredicateAnswer",
    "Refusal",
    "ScoreAnswer",
    "Served",
    "TextStream",
    "TokenUsage",
    "choice_question",
    "predicate_question",
    "score_question",
]


class Client(WorkflowMethods):
    """Blocking client. It keeps connections open, so use one for many calls, and close it."""

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str = DEFAULT_MODEL,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        truncate: bool = True,
        priority: Priority = "normal",
    ) -> Embeddings:
        """Embed one text or several.

        Args:
            texts: One text, or several; the vectors come in their order.
            model: An embedding model of `models()`.
            dimensions: Keep the first N dimensions and normalise again.
            prompt_name: A prompt of the model's own, put before each text.
            truncate: Cut texts to the model's window; False: refuse longer ones.
            priority: Order among waiting requests.

        Raises:
            RequestError: the request breaks a rule of the server.
            ModelNotFoundError: no such model.
            OverloadedError: the queue is still full after the retries.
            NotRunningError: nobody listens at the base URL.
        """
        fields = {"model": model, "dimensions": dimensions, "prompt_name": prompt_name}
        fields |= {"truncate": truncate, "priority": priority}
        return self._run(calls.embed_call(texts, fields))

    def decide(
        self,
        input: str | Messages,
        questions: Sequence[Mapping[str, Any]],
        *,
        model: str = DEFAULT_MODEL,
        method: str | None = None,
        **extensions: Any,
    ) -> Decision:
        """Answer questions about a text or a conversation.

        Args:
            input: A text, or messages.
            questions: Of the forms `predicate`, `choice` and `score` of the OpenAI API, e.g.
                `{"type": "predicate", "instructions": "It is urgent."}`.
            model: A model of `models()`; its task picks the method.
            method: `embedding`, `nli`, `classifier` or `lm`, where the model has several.
            extensions: Further fields of `POST /v1/decisions`, e.g. `refusal_threshold`.

        Raises:
            RequestError: the request breaks a rule of the server.
            ModelNotFoundError: no such model.
        """
        fields = {**extensions, "model": model, "method": method}
        return self._run(decisions.decision_call(input, questions, fields))

    def classify(
        self,
        text: str,
        labels: Labels,
        *,
        model: str = DEFAULT_MODEL,
        multi_label: bool = False,
        examples: Examples | None = None,
        **extensions: Any,
    ) -> Classification:
        """The label that fits a text best, or none.

        Args:
            text: Any text.
            labels: 2 to 255 labels, or a description for each.
            model: As for `decide`.
            multi_label: Each label gets a probability of its own; method `nli` only.
            examples: Texts for any of the labels; method `embedding` only.
            extensions: As for `decide`, e.g. `method` and `hypothesis_template`.

        Raises:
            RequestError: the request breaks a rule, e.g. there is one label only.
        """
        fields = {**extensions, "model": model, "multi_label": multi_label or None}
        return self._run(decisions.classify_call(text, labels, examples, fields))

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        model: str = DEFAULT_CHAT_MODEL,
        **options: Unpack[GenerationOptions],
    ) -> Completion:
        """The answer to a conversation.

        Args:
            messages: Each with `role` and `content`; a text stands for one message of the user.
            model: A generating model with a chat template.
            options: See `GenerationOptions`.

        Raises:
            ContextLengthError: the conversation is longer than the model can read.
            RequestError: the request breaks a rule of the server.
            DeadlineExceededError: the answer took longer than the client's time-out.
        """
        return self._run(generation.chat_call(messages, {**options, "model": model}))

    def complete(
        self,
        prompt: str,
        *,
        model: str = DEFAULT_CHAT_MODEL,
        **options: Unpack[GenerationOptions],
    ) -> Completion:
        """How a text goes on; the server's default of `max_tokens` is short. As for `chat`."""
        return self._run(generation.completion_call(prompt, {**options, "model": model}))

    def stream_chat(
        self,
        messages: str | Sequence[Message],
        *,
        model: str = DEFAULT_CHAT_MODEL,
        **options: Unpack[GenerationOptions],
    ) -> TextStream:
        """The answer to a conversation, piece by piece as it is made; see `chat`."""
        call = generation.chat_call(messages, {**options, "model": model})
        return self._stream(generation.streamed(call))

    def stream(
        self,
        prompt: str,
        *,
        model: str = DEFAULT_CHAT_MODEL,
        **options: Unpack[GenerationOptions],
    ) -> TextStream:
        """How a text goes on, piece by piece as it is made; see `complete`."""
        call = generation.completion_call(prompt, {**options, "model": model})
        return self._stream(generation.streamed(call))

    def models(self) -> list[Model]:
        """Every model of the server's catalogue, loaded or not."""
        return self._run(calls.models_call())

    def model(self, model_id: str) -> Model:
        """One model.

        Raises:
            ModelNotFoundError: no such model; the message names the known ones.
        """
        return self._run(calls.model_call(model_id))

    def load_model(
        self,
        model_id: str,
        *,
        pin: bool = False,
        ttl_seconds: float | None = None,
        progress: Callable[[LoadProgress], None] | None = None,
    ) -> Model:
        """Load a model and wait until it is ready; `timeout` does not limit the load itself.

        Args:
            model_id: A model of `models()`.
            pin: Never evict it.
            ttl_seconds: Unload it after this idle time.
            progress: Called with each step.

        Raises:
            ModelLoadError: its files are absent, damaged or unsupported.
            MemoryBudgetError: there is no room for it.
        """
        self._run(calls.load_call(model_id, pin, ttl_seconds, progress))
        return self.model(model_id)

    def unload_model(self, model_id: str, *, force: bool = False) -> Model:
        """Unload a model; waits until the requests that use it are done.

        Args:
            model_id: A loaded model.
            force: Unload it although it is pinned.

        Raises:
            ConflictError: it is pinned, and `force` is not given.
        """
        self._run(calls.unload_call(model_id, force))
        return self.model(model_id)

    def health(self) -> Health:
        """Whether the server's process answers."""
        return self._health("/healthz")

    def ready(self) -> Health:
        """Whether each pinned model has just done a forward pass."""
        return self._health("/readyz")

    def status(self) -> dict[str, Any]:
        """Nodes, models, queues, memory and what is degraded."""
        return self._run(calls.status_call())

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send JSON to any route and return the JSON that it answers."""
        return self._run(calls.raw_call(method, path, body))

    def _health(self, path: str) -> Health:
        try:
            return self._run(calls.health_call(path))
        except UnavailableError as error:
            return calls.unhealthy(error)
