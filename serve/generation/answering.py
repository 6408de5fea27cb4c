"""Running jobs: resumed when a replica is lost, several at once, closed whatever happens."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

import numpy as np

from ironcliw.errors import DeadlineExceededError, UnavailableError
from serve.embeddings import Served
from serve.generation.protocol import Delta, Finish, GenerationJob, TokenDraw
from serve.generation.stream import AnswerText, Piece
from serve.generation.text import TextSide
from serve.variants import GeneratingVariant, ReplicaLostError

logger = logging.getLogger(__name__)

ItemT = TypeVar("ItemT")

# An answer that takes its replica down each time must not go on doing so.
_MOST_LOSSES = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer.

    Attributes:
        text: Without the stop string.
        finish: Why it ended.
        draws: (characters before it, token) of each token of the text.
    """

    text: str
    finish: Finish
    draws: tuple[tuple[int, TokenDraw], ...]


async def resumed(
    variant: GeneratingVariant,
    model_id: str,
    job: GenerationJob,
    deadline: float,
    on_loss: Callable[[], None] = lambda: None,
) -> AsyncGenerator[Delta, None]:
    """A job's deltas; goes on elsewhere when a replica is lost, unseen by the reader.

    What was received is read again like a prompt, and every draw depends on its position alone, so
    nothing comes twice and nothing is missing.

    Args:
        variant: Where the model runs.
        model_id: The model.
        job: What to answer.
        deadline: On the clock of `time.monotonic`.
        on_loss: Called at each loss.

    Raises:
        DeadlineExceededError: the answer was not whole by then.
        ReplicaLostError: too many were lost.
    """
    received: list[int] = job.generated.tolist()
    losses = 0
    while True:
        part = dataclasses.replace(job, generated=np.array(received, np.int32))
        try:
            async with aclosing(variant.generate(model_id, part, deadline)) as deltas:
                async for delta in _until(deltas, deadline):
                    received += [draw.id for draw in delta.tokens]
                    yield delta
                    if delta.finish is not None or delta.scores is not None:
                        return
            raise UnavailableError(f"{model_id} stopped in the middle of an answer; ask again")
        except ReplicaLostError as error:
            losses += 1
            on_loss()
            if losses > _MOST_LOSSES:
                raise
            logger.warning(
                "going on with an answer of %s after %d tokens: %s", model_id, len(received), error
            )
            if len(received) >= job.max_tokens:  # only the word that it is whole was lost
                yield Delta(finish="length")
                return


async def merged(
    sources: Sequence[AsyncGenerator[ItemT, None]],
) -> AsyncGenerator[tuple[int, ItemT], None]:
    """The items of several generators as they come, each with its generator's number.

    The first error ends all of them. Closing this closes all of them.
    """
    if len(sources) == 1:
        async with aclosing(sources[0]) as only:
            async for item in only:
                yield 0, item
        return
    queue: asyncio.Queue[tuple[int, ItemT] | asyncio.Task[None]] = asyncio.Queue()

    async def drain(number: int, source: AsyncGenerator[ItemT, None]) -> None:
        async with aclosing(source) as items:
            async for item in items:
                queue.put_nowait((number, item))

    tasks = [asyncio.create_task(drain(*pair)) for pair in enumerate(sources)]
    for task in tasks:
        task.add_done_callback(queue.put_nowait)
    running = len(tasks)
    try:
        while running:
            given = await queue.get()
            if isinstance(given, asyncio.Task):
                given.result()  # raises the error that it ended with
                running -= 1
            else:
                yield given
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def pieces(
    deltas: AsyncGenerator[Delta, None], text: TextSide, stops: Sequence[str]
) -> AsyncGenerator[Piece, None]:
    """What the reader gets of a job; the job is closed as soon as a stop string is found."""
    answer = AnswerText(text.decode, stops)
    async with aclosing(deltas):
        async for delta in deltas:
            piece = answer.push(delta)
            if piece.finish is not None:
                # before the last piece goes out: a slow reader must not hold the slot
                await deltas.aclose()
            yield piece
            if piece.finish is not None:
                return


class Answering:
    """The answers to one request as they grow; the first piece of one of them is there already.

    Iterate over it for (number of the answer, piece), and close it with `aclose` whatever happens:
    that ends its jobs and frees their slots.

    Attributes:
        id: Of the answer, `chatcmpl-...` or `cmpl-...`.
        created: Unix time, seconds.
        text: The model's text side.
        served: Who answers.
        fingerprint: Model and precision.
        count: Number of answers.
        prompt_tokens: Over all prompts.
        completion_tokens: Made so far, over all answers.
        echoes: Text to put before each answer; none, or one each.
        logprobs: Whether to report log-probabilities.
        first_at: When the first piece was there, on the clock of `time.monotonic`.
    """

    def __init__(
        self,
        kind: str,
        text: TextSide,
        count: int,
        prompt_tokens: int,
        source: AsyncGenerator[tuple[int, Piece], None],
        *,
        echoes: Sequence[str] = (),
        logprobs: bool = False,
        on_end: Callable[[Answering], None] | None = None,
    ) -> None:
        self.id = f"{kind}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.text = text
        self.count = count
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = 0
        self.echoes = echoes
        self.logprobs = logprobs
        self.served = Served(text.model, "", "")
        self.fingerprint = ""
        self.first_at = time.monotonic()
        self._source = source
        self._on_end = on_end
        self._first: tuple[int, Piece] | None = None

    async def begin(self) -> None:
        """Wait for the first piece; an error before it is raised here.

        Raises:
            IroncliwError: see `resumed`.
        """
        self._first = await anext(self._source)
        self.first_at = time.monotonic()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        assert self._first is not None, "begin comes first"
        self.completion_tokens += self._first[1].tokens
        yield self._first
        async for number, piece in self._source:
            self.completion_tokens += piece.tokens
            yield number, piece

    async def whole(self) -> list[Answer]:
        """Wait for all answers; closes."""
        texts: list[list[str]] = [[] for _ in range(self.count)]
        draws: list[list[tuple[int, TokenDraw]]] = [[] for _ in range(self.count)]
        ends: dict[int, Finish] = {}
        async with aclosing(self):
            async for number, piece in self:
                texts[number].append(piece.text)
                draws[number] += piece.draws
                if piece.finish is not None:
                    ends[number] = piece.finish
        return [
            Answer("".join(texts[number]), ends[number], tuple(draws[number]))
            for number in range(self.count)
        ]

    async def aclose(self) -> None:
        """End what runs and free its slots."""
        await self._source.aclose()
        told, self._on_end = self._on_end, None
        if told is not None and self._first is not None:
            told(self)


async def _until(
    deltas: AsyncGenerator[Delta, None], deadline: float
) -> AsyncGenerator[Delta, None]:
    while True:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                delta = await anext(deltas)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise DeadlineExceededError(
                "the answer was not whole by the request's deadline; ask for fewer tokens, or for "
                "longer with the x-request-timeout-seconds header"
            ) from None
        yield delta
