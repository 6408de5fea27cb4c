"""What the batcher adds to a lone request: the queue around a no-op engine, against a bare call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import numpy as np

from benchmarks.harness import Goal, Row, Samples, percentile
from serve.batcher import BatchLimits
from serve.batching import BatchQueue, Item
from serve.engines.protocol import Tokens, Vectors

GOAL = Goal(0.5, at_most=True)
_CALLS = 1000


def batching_tax(rounds: int) -> list[Row]:
    """Median latency with the batcher minus the median without, in one event loop."""
    differences = asyncio.run(_measure(rounds))
    tax = Samples.of(differences)
    return [Row("serving", "batching tax on a lone request", "ms", tax, goal=GOAL)]


async def _measure(rounds: int) -> list[float]:
    tokens: Tokens = np.arange(12, dtype=np.int32)
    vectors: Vectors = np.zeros((1, 384), dtype=np.float32)

    async def run(sequences: list[Item]) -> Vectors:
        return vectors

    queue = BatchQueue(BatchLimits(), run)
    differences = []
    for _ in range(rounds):
        queued = await _median_ms(lambda: queue.submit([tokens]))
        direct = await _median_ms(lambda: run([tokens]))
        differences.append(queued - direct)
    await queue.close()
    return differences


async def _median_ms(call: Callable[[], Awaitable[object]]) -> float:
    times = []
    for _ in range(_CALLS):
        started = time.perf_counter()
        await call()
        times.append(time.perf_counter() - started)
    return 1e3 * percentile(times, 0.5)
