"""A generation service on real runners, with decoders that need no weights."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ironcliw.catalog import Catalog
from ironcliw.schemas.generation import ChatCompletionRequest, CompletionRequest
from ironcliw.settings import Settings
from serve.engines.decoders.fake import FakeDecoder
from serve.generation.answering import Answer
from serve.generation.protocol import Delta, GenerationJob
from serve.generation.runner import GenerationRunner
from serve.generation.service import GenerationService
from serve.variants import ReplicaLostError

HELLO = "Hello w\u00f6rld, \U0001f600!"
MODELS = {
    "fake": f"fake:300?context=256&text={HELLO}",
    "long": "fake:300?context=4096&seconds=0.002&text=" + "abcdefgh" * 400,
    "random": "fake:256?context=256",
    "source": "fake:300?context=64&seq2seq=1&text=ok",
}
USER = [{"role": "user", "content": "hi"}]


class RunnerVariant:
    """Real runners in this process, which can die as a replica does.

    Attributes:
        jobs: Every job that was given to a runner.
        losses: How often to die, each time after `lose_after` tokens.
    """

    name = "test"

    def __init__(self, catalog: Catalog, losses: int, lose_after: int) -> None:
        self._catalog = catalog
        self._executor = ThreadPoolExecutor(1)
        self._runners: dict[str, GenerationRunner] = {}
        self.jobs: list[GenerationJob] = []
        self.losses = losses
        self.lose_after = lose_after

    def runner(self, model_id: str) -> GenerationRunner:
        if model_id not in self._runners:
            decoder = FakeDecoder(str(self._catalog[model_id].source))
            self._runners[model_id] = GenerationRunner(decoder, self._executor)
        return self._runners[model_id]

    async def generate(
        self, model_id: str, job: GenerationJob, deadline: float
    ) -> AsyncGenerator[Delta, None]:
        self.jobs.append(job)
        count = 0
        deltas = self.runner(model_id).generate(job)
        try:
            async for delta in single_tokens(deltas):
                yield delta
                count += len(delta.tokens)
                if self.losses and count >= self.lose_after:
                    self.losses -= 1
                    raise ReplicaLostError("a replica was lost")
        finally:
            await deltas.aclose()

    async def stats(self) -> dict[str, Any]:
        rows = [{"id": m, "precision": r.precision} for m, r in self._runners.items()]
        return {"node": "test-node", "models": rows}

    def close(self) -> None:
        for runner in self._runners.values():
            runner.close()
        self._executor.shutdown()


async def single_tokens(deltas: AsyncIterator[Delta]) -> AsyncIterator[Delta]:
    """One token at a time, however far the fake decoder is ahead of the reader."""
    async for delta in deltas:
        for token in delta.tokens[:-1]:
            yield Delta((token,))
        yield replace(delta, tokens=delta.tokens[-1:])


class Made:
    """A service and the variant below it."""

    def __init__(self, service: GenerationService, variant: RunnerVariant) -> None:
        self.service = service
        self.variant = variant

    def running(self, model: str) -> int:
        return self.variant.runner(model).stats().running


@asynccontextmanager
async def made(folder: Path, losses: int = 0, lose_after: int = 3) -> AsyncIterator[Made]:
    models: Any = {name: {"source": s, "task": "generation"} for name, s in MODELS.items()}
    models["vectors"] = {"source": "fake:4", "task": "embedding"}
    settings = Settings(models=models)
    catalog = Catalog(settings.models)
    variant = RunnerVariant(catalog, losses, lose_after)
    service = GenerationService(catalog, settings.serve, variant, folder)  # type: ignore[arg-type]
    try:
        yield Made(service, variant)
    finally:
        await service.close()
        variant.close()


def chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate({"model": "fake", "messages": USER, **fields})


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "fake", "prompt": "> ", **fields})


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


def texts(answers: Sequence[Answer]) -> list[str]:
    return [answer.text for answer in answers]
