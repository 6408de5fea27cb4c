"""Twice the load that our server can carry: what gets through in time, and how the rest is told.

    closed loop      -> capacity (requests a second)
    half of it       -> p99; the objective (SLO) is twice that
    open-loop sweep  -> peak goodput: answers within the objective
    twice capacity   -> goodput, rejections, errors

From the sweep on each request says by `x-request-timeout-seconds` when its answer is worthless.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence

from benchmarks.harness import BenchmarkError, Goal, NotRun, Options, Row, Samples
from benchmarks.load import LoadResult, offer, poisson_schedule
from benchmarks.servers import MODEL

logger = logging.getLogger(__name__)

THEME = "serving"
TEXTS_A_REQUEST = 32
SLO_FACTOR = 2.0
OVERLOAD = 2.0
GOODPUT_GOAL = Goal(0.9, relative=True)
CLEAN_GOAL = Goal(0.0, at_most=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Seconds of each phase, and the sweep's rates as shares of the capacity."""

    closed: float
    half: float
    sweep: float
    overload: float
    shares: tuple[float, ...]


FULL = Plan(10.0, 30.0, 15.0, 60.0, (0.7, 0.8, 0.9, 1.0, 1.1))
QUICK = Plan(3.0, 5.0, 3.0, 10.0, (0.85, 1.0))


def overload_rows(url: str, texts: Sequence[str], options: Options) -> list[Row]:
    """Run all phases against our server.

    Raises:
        BenchmarkError: requests fail while there is no overload.
    """
    plan = QUICK if options.quick else FULL
    load = _Load(url, texts, options.seed)
    capacity = load.closed(plan.closed)
    half = load.open(capacity / 2, plan.half)
    if half.improper or half.rejected:
        raise BenchmarkError(
            f"at half load {half.rejected} requests were rejected and these failed: "
            f"{dict(half.improper)}; nothing can be said about overload"
        )
    slo = SLO_FACTOR * half.latency(0.99)
    logger.info("capacity %.1f requests/s, objective %.3f s", capacity, slo)
    swept = [load.open(capacity * share, plan.sweep, slo) for share in plan.shares]
    peak = max(result.goodput(slo) for result in swept)
    if peak <= 0:
        raise BenchmarkError(f"no answer of the sweep came within the objective of {slo:.3f} s")
    logger.info("peak goodput %.1f requests/s; overloading", peak)
    over = load.open(OVERLOAD * capacity, plan.overload, slo)
    return build_rows(over, peak, slo, OVERLOAD * capacity)


def build_rows(over: LoadResult, peak: float, slo: float, offered: float) -> list[Row]:
    """Rows of the overload phase.

    Args:
        over: Its outcomes.
        peak: Best goodput of the sweep, requests a second.
        slo: The objective in seconds.
        offered: Rate at which requests were due, a second.
    """
    goodput = TEXTS_A_REQUEST * over.goodput(slo)
    best = Samples.of([TEXTS_A_REQUEST * peak])
    condition = f"{offered:.0f} requests/s offered, SLO {1000 * slo:.0f} ms"
    kinds = ", ".join(f"{count} x {kind}" for kind, count in over.improper.most_common())
    answered = any(outcome.status == 200 for outcome in over.outcomes)
    p99 = Samples.of([1000 * over.latency(0.99)]) if answered else NotRun("nothing was answered")
    return [
        Row(
            THEME,
            "goodput at 2x overload",
            "texts/s",
            Samples.of([goodput]),
            {"peak of the sweep": best},
            GOODPUT_GOAL,
            condition,
        ),
        Row(
            THEME,
            "answers at 2x overload that are neither 200 nor 429 with Retry-After",
            "requests",
            Samples.of([over.improper.total()]),
            goal=CLEAN_GOAL,
            note=kinds,
        ),
        Row(THEME, "rejected at 2x overload", "requests", Samples.of([over.rejected])),
        Row(THEME, "p99 of answers at 2x overload", "ms", p99),
    ]


class _Load:
    """Requests of 32 texts of which no two are equal."""

    def __init__(self, url: str, texts: Sequence[str], seed: int) -> None:
        self._url, self._texts, self._seed = url, texts, seed
        self._sent = 0

    def closed(self, seconds: float) -> float:
        """Requests a second with four at once, each waiting for its answer."""
        return asyncio.run(self._closed(seconds))

    def open(self, rate: float, seconds: float, slo: float | None = None) -> LoadResult:
        """An open-loop run; with an objective it is each request's deadline too."""
        self._seed += 1
        schedule = poisson_schedule(rate, seconds, self._seed)
        deadline = [] if slo is None else [("x-request-timeout-seconds", f"{slo:.4f}")]
        return asyncio.run(
            offer(self._url, schedule, self._bodies(), seconds=seconds, headers=deadline)
        )

    async def _closed(self, seconds: float) -> float:
        body = self._bodies()
        end = time.monotonic() + seconds

        async def one_client() -> int:
            answered = 0
            while time.monotonic() < end:
                result = await offer(self._url, [0.0], body, seconds=1.0)
                if result.improper or result.rejected:
                    raise BenchmarkError(f"{self._url} failed without load: {result.outcomes[0]}")
                answered += 1
            return answered

        started = time.monotonic()
        counts = await asyncio.gather(*(one_client() for _ in range(4)))
        return sum(counts) / (time.monotonic() - started)

    def _bodies(self) -> Callable[[int], bytes]:
        def body(_: int) -> bytes:
            first = self._sent
            self._sent += TEXTS_A_REQUEST
            numbers = range(first, self._sent)
            items = [f"{self._texts[n % len(self._texts)]} #{n}" for n in numbers]
            request = {"model": MODEL, "input": items, "encoding_format": "base64"}
            return json.dumps(request).encode()

        return body
