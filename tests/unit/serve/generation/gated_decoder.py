"""A decoder whose steps a test lets happen, and what tests of the runner do with it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import numpy as np

from ironcliw.errors import UnavailableError
from serve.engines.decoders.fake import FakeDecoder
from serve.engines.protocol import Tokens
from serve.generation.protocol import GenerationJob, Generator, Logits, Sampling, Step
from serve.generation.runner import GenerationRunner

PATIENCE = 60.0
GREEDY = Sampling(temperature=0)


class GatedDecoder(FakeDecoder):
    """Computes a step for each permit that the test gives; fails where it is told to."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.permits = threading.Semaphore(0)
        self.started = 0
        self.error: Exception | None = None

    def forward(self, step: Step) -> Logits:
        self.started += 1
        assert self.permits.acquire(timeout=PATIENCE)
        if self.error:
            error, self.error = self.error, None
            raise error
        return super().forward(step)


def job(text: str = "Hi", max_tokens: int = 8, **options: object) -> GenerationJob:
    prompt: Tokens = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    return GenerationJob(prompt, max_tokens, GREEDY, **options)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.001)


def block_until(condition: Callable[[], bool]) -> None:
    """As `until`, while the event loop does nothing."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.001)


async def until_refused(runner: GenerationRunner) -> None:
    """Wait until new jobs are refused, with a decoder that computes nothing meanwhile."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            async with asyncio.timeout(0.01):
                await answer(runner, job())
        except UnavailableError:
            return
        except TimeoutError:
            assert time.monotonic() < deadline, "jobs are still taken"


async def answer(generator: Generator, asked: GenerationJob) -> tuple[bytes, str | None]:
    ids: list[int] = []
    finish = None
    async for delta in generator.generate(asked):
        ids += [token.id for token in delta.tokens]
        finish = delta.finish
    return bytes(ids), finish
