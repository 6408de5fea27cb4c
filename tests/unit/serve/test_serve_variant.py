"""What a client is told when a Serve deployment stays silent; Serve itself is in the integration
tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from ironcliw.errors import DeadlineExceededError, UnavailableError
from serve.generation.answering import resumed
from serve.generation.protocol import Delta, GenerationJob
from serve.serve_variant import ServeVariant

JOB = GenerationJob(np.zeros(2, np.int32), 4)


class Stream:
    """A streamed answer of a handle, which comes after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._deltas = self._run(seconds)
        self.cancelled = False

    async def _run(self, seconds: float) -> AsyncGenerator[Delta, None]:
        await asyncio.sleep(seconds)
        yield Delta(finish="stop")

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Delta:
        return await anext(self._deltas)

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A deployment whose replica, if there is one, needs so many seconds for an answer."""

    def __init__(self, seconds: float, *, replica: bool) -> None:
        self._seconds, self._replica = seconds, replica
        self.streams: list[Stream] = []
        self.asked = 0

    def options(self, **_: Any) -> Handle:
        return self

    @property
    def generate(self) -> Any:
        return self

    @property
    def stats(self) -> Any:
        handle = self

        class Method:
            async def remote(self) -> dict[str, Any]:
                handle.asked += 1
                if not handle._replica:
                    await asyncio.sleep(3600)
                return {}

        return Method()

    def remote(self, *_: Any) -> Stream:
        self.streams.append(Stream(self._seconds))
        return self.streams[-1]


async def answer(handle: Handle, seconds: float) -> list[Delta]:
    variant: Any = ServeVariant("local", handle)  # type: ignore[arg-type]
    async with aclosing(resumed(variant, "m", JOB, time.monotonic() + seconds)) as deltas:
        return [delta async for delta in deltas]


async def test_no_replica_is_not_the_clients_deadline() -> None:
    handle = Handle(3600, replica=False)
    with pytest.raises(UnavailableError, match="no local replica is there to answer"):
        await answer(handle, 0.2)
    assert handle.streams[0].cancelled


async def test_a_replica_that_is_slow_is() -> None:
    handle = Handle(3600, replica=True)
    with pytest.raises(DeadlineExceededError, match="not whole by the request's deadline"):
        await answer(handle, 0.2)
    assert handle.asked == 1


async def test_an_answer_in_time_asks_nobody() -> None:
    handle = Handle(0.0, replica=False)
    assert await answer(handle, 30.0) == [Delta(finish="stop")]
    assert handle.asked == 0
