"""Text generation from request to answer: check, render, tokenise, run, give back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ironcliw.catalog import Catalog
from ironcliw.chat_template import ChatMessages
from ironcliw.errors import RequestError, UnavailableError
from ironcliw.schemas.generation import ChatCompletionRequest, CompletionRequest
from ironcliw.setting_sections import ServeSettings
from serve.batcher import Priority
from serve.embeddings import Served
from serve.engines.protocol import Tokens
from serve.engines.registry import require_generation
from serve.failover_terms import Route
from serve.failover_variant import FailoverVariant, RoutedGeneration
from serve.generation.answering import Answer, Answering, merged, pieces, resumed
from serve.generation.answers import chat_body, completion_body
from serve.generation.protocol import GenerationJob
from serve.generation.requests import (
    PlannedJobs,
    check_completion,
    check_room,
    plain_messages,
    plan_chat,
    plan_completion,
)
from serve.generation.text import TextSide, load_text_side
from serve.read_once import ReadOnce
from serve.variants import GeneratingVariant, Variant

ResultT = TypeVar("ResultT")

# Tokenising this many characters takes about a millisecond, longer texts leave the event loop.
_INLINE_CHARACTERS = 4096
# Kept of a deadline for saying that it has passed.
_ANSWER_SECONDS = 0.02


class GenerationService:
    """Answers chat and completion requests through a variant.

    Args:
        catalog: The known models.
        settings: The default deadline.
        variant: Where models run.
        cache_dir: Where fetched and converted models are kept.
        observer: Told of each request's end: model, prompt tokens, tokens made, seconds to the
            first piece, seconds over all.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: ServeSettings,
        variant: Variant,
        cache_dir: Path,
        observer: Callable[[str, int, int, float, float], None] | None = None,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._variant = variant
        self._cache_dir = cache_dir
        self._observer = observer
        self._texts = ReadOnce(self._load_text_side)
        # node and precision of a loaded model, by variant and model
        self._facts: dict[tuple[str, str], tuple[str, str]] = {}
        self._scored: dict[str, Served] = {}  # who gave a model's last scores
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="tokenise")

    async def chat(
        self, request: ChatCompletionRequest, deadline: float | None
    ) -> tuple[list[Answer], Answering]:
        """All answers of a chat, and what they were made from.

        Args:
            request: Already of the right form.
            deadline: On the clock of `time.monotonic`; None: the settings' from now.

        Raises:
            IroncliwError: see the error tree.
        """
        answering = await self.open_chat(request, deadline)
        return await answering.whole(), answering

    async def complete(
        self, request: CompletionRequest, deadline: float | None
    ) -> tuple[list[Answer], Answering]:
        """All answers of a completion; as `chat`."""
        answering = await self.open_completion(request, deadline)
        return await answering.whole(), answering

    async def answer_chat(
        self, request: ChatCompletionRequest, deadline: float | None
    ) -> tuple[bytes, Served]:
        """JSON of a `ChatCompletion`, and who answered."""
        answers, answering = await self.chat(request, deadline)
        return chat_body(answering, answers), answering.served

    async def answer_completion(
        self, request: CompletionRequest, deadline: float | None
    ) -> tuple[bytes, Served]:
        """JSON of a `Completion`, and who answered."""
        answers, answering = await self.complete(request, deadline)
        return completion_body(answering, answers), answering.served

    async def open_chat(self, request: ChatCompletionRequest, deadline: float | None) -> Answering:
        """Start a chat's answers and wait for the first piece; close what this returns.

        Raises:
            IroncliwError: see the error tree.
        """
        messages = plain_messages(request)
        text = await self.text_side(request.model)
        prompt = await self._chat_prompt(text, messages)
        return await self._open("chatcmpl", text, plan_chat(request, text, prompt), deadline)

    async def open_completion(
        self, request: CompletionRequest, deadline: float | None
    ) -> Answering:
        """Start a completion's answers; as `open_chat`."""
        prompts = check_completion(request)
        text = await self.text_side(request.model)
        encode = partial(_encode_prompts, text, prompts, echo=bool(request.echo))
        if sum(map(len, prompts)) <= _INLINE_CHARACTERS:
            encoded, echoes = encode()
        else:
            encoded, echoes = await self._run(encode)
        return await self._open(
            "cmpl", text, plan_completion(request, text, encoded, echoes), deadline
        )

    async def next_token_logprobs(
        self,
        model_id: str,
        prompt: str | ChatMessages,
        token_texts: Sequence[str],
        deadline: float | None,
        priority: str = "normal",
    ) -> list[float]:
        """Natural log-probabilities of texts as the very next token.

        Args:
            model_id: A causal model.
            prompt: A text, or messages that the model's chat template renders.
            token_texts: Each must be one token where it follows the prompt.
            deadline: As of `chat`.
            priority: As in a request.

        Raises:
            RequestError: the model is sequence to sequence, or a text is not one token.
            IroncliwError: see the error tree.
        """
        text = await self.text_side(model_id)
        model_id = text.model
        if text.seq2seq:
            raise RequestError(
                f"model {model_id!r} reads its prompt and writes its answer apart; scores of next "
                "tokens need a causal model",
                param="model",
            )
        special = isinstance(prompt, str)
        if isinstance(prompt, str):
            rendered = prompt
        else:
            rendered = await self._run(text.render, prompt)
        tokens, found = await self._run(_score_tokens, text, rendered, token_texts, special)
        job = GenerationJob(
            tokens,
            1,
            score_tokens=found,
            priority=int(Priority[priority.upper()]),
            adapter=self._catalog[model_id].adapter,
        )
        end, lost = self._deadline(deadline), partial(self._forget_facts, model_id)
        variant = self._for_request()
        deltas = resumed(variant, model_id, job, end, lost)
        async with aclosing(deltas):
            async for delta in deltas:
                if delta.scores is not None:
                    self._scored[model_id] = (await self._who(variant, model_id))[0]
                    return list(delta.scores)
        raise UnavailableError(f"{model_id} gave no scores; ask again")

    async def served(self, model_id: str) -> Served:
        """Who gave a model's last scores."""
        if model_id in self._scored:
            return self._scored[model_id]
        return (await self._who(self._for_request(), model_id))[0]

    async def text_side(self, model_id: str) -> TextSide:
        """A model's tokenizer and facts, read once.

        Raises:
            ModelNotFoundError, RequestError, ModelLoadError
        """
        card = self._catalog[model_id]
        require_generation(card)
        return await self._texts.get(card.id)

    def errors(self) -> dict[str, str]:
        """Why a model's tokenizer could not be read, by model."""
        return self._texts.errors()

    def forget(self, model_id: str) -> None:
        """Drop a model's tokenizer and facts: it may come back with other files."""
        self._texts.forget(model_id)
        self._forget_facts(model_id)

    async def close(self) -> None:
        """Stop."""
        self._threads.shutdown(wait=False)

    async def _open(
        self, kind: str, text: TextSide, plan: PlannedJobs, deadline: float | None
    ) -> Answering:
        started = time.monotonic()
        end = self._deadline(deadline)
        lost = partial(self._forget_facts, text.model)
        variant = self._for_request()
        adapter = self._catalog[text.model].adapter
        sources = [
            pieces(
                resumed(variant, text.model, replace(job, adapter=adapter), end, lost),
                text,
                plan.stops,
            )
            for job in plan.jobs
        ]
        answering = Answering(
            kind,
            text,
            len(sources),
            plan.prompt_tokens,
            merged(sources),
            echoes=plan.echoes,
            logprobs=plan.logprobs,
            on_end=None if self._observer is None else partial(self._observe, started),
        )
        async with AsyncExitStack() as failing:
            failing.push_async_callback(answering.aclose)
            await answering.begin()
            answering.served, precision = await self._who(variant, text.model)
            failing.pop_all()
        answering.fingerprint = f"{text.model}-{precision}"
        return answering

    async def _load_text_side(self, model_id: str) -> TextSide:
        adapter = self._catalog[model_id].adapter
        if adapter is not None:  # its base's tokenizer, under its own name
            return (await self._texts.get(adapter.base)).named(model_id)
        return await asyncio.to_thread(load_text_side, self._catalog[model_id], self._cache_dir)

    def _forget_facts(self, model_id: str) -> None:
        for key in [key for key in self._facts if key[1] == model_id]:
            del self._facts[key]
        self._scored.pop(model_id, None)

    def _for_request(self) -> GeneratingVariant:
        """What one request's jobs go through."""
        if isinstance(self._variant, FailoverVariant):
            return self._variant.for_request()
        return self._variant

    async def _who(self, variant: GeneratingVariant, model_id: str) -> tuple[Served, str]:
        """Who answers, and the precision of a model that is loaded now; asked once."""
        route = variant.route if isinstance(variant, RoutedGeneration) else Route(variant.name, "")
        node, precision = await self._node_and_precision(variant, model_id)
        served = Served(model_id, route.variant, route.node or node, route.degraded)
        return served, precision

    async def _node_and_precision(
        self, variant: GeneratingVariant, model_id: str
    ) -> tuple[str, str]:
        key = (variant.name, model_id)
        if key not in self._facts:
            try:
                stats = await variant.stats()
            except UnavailableError:
                return "", "unknown"
            rows = {row["id"]: row for row in stats["models"]}
            precision = rows.get(model_id, {}).get("precision") or "unknown"
            self._facts[key] = (str(stats.get("node", "")), str(precision))
        return self._facts[key]

    def _observe(self, started: float, answering: Answering) -> None:
        assert self._observer is not None
        self._observer(
            answering.text.model,
            answering.prompt_tokens,
            answering.completion_tokens,
            answering.first_at - started,
            time.monotonic() - started,
        )

    def _deadline(self, given: float | None) -> float:
        if given is None:
            return time.monotonic() + self._settings.generation_timeout_seconds
        return given - _ANSWER_SECONDS

    async def _chat_prompt(self, text: TextSide, messages: ChatMessages) -> Tokens:
        # always in a thread: a template is a program of somebody else's
        return await self._run(lambda: text.encode(text.render(messages), special=False))

    async def _run(self, function: Callable[..., ResultT], *arguments: Any) -> ResultT:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)


def _encode_prompts(
    text: TextSide, prompts: Sequence[str] | Sequence[Sequence[int]], *, echo: bool
) -> tuple[list[Tokens], list[str]]:
    """Tokens of each prompt, and the texts to echo."""
    encoded = [text.encode(p) if isinstance(p, str) else text.check(p) for p in prompts]
    if not echo:
        return encoded, []
    return encoded, [p if isinstance(p, str) else text.decode(list(p)) for p in prompts]


def _score_tokens(
    text: TextSide, prompt: str, token_texts: Sequence[str], special: bool
) -> tuple[Tokens, tuple[int, ...]]:
    tokens = text.encode(prompt, special=special)
    check_room(text, tokens, "input")
    return tokens, text.following(prompt, token_texts, special=special)
