"""Open-loop load against a small server on loopback."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.load import LoadResult, Outcome, offer, poisson_schedule

Answer = Callable[[int], Awaitable[bytes]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    """A keep-alive HTTP server; `answer` gets the number of the request, from 0."""
    count = 0
    handlers: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        handlers.add(asyncio.current_task())
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionResetError):
                break
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            number, count = count, count + 1
            writer.write(await answer(number))
            await writer.drain()
        writer.close()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1/embeddings"
    finally:
        listener.close()
        await asyncio.gather(*(task for task in handlers if task), return_exceptions=True)


def always(response: bytes) -> Answer:
    async def answer(_: int) -> bytes:
        return response

    return answer


async def ask(response: bytes) -> Outcome:
    async with server(always(response)) as url:
        result = await offer(url, [0.0], lambda _: b"{}", seconds=1.0)
    (outcome,) = result.outcomes
    return outcome


def test_a_seed_gives_the_same_arrivals_again() -> None:
    first = poisson_schedule(50.0, 10.0, seed=1)
    assert first == poisson_schedule(50.0, 10.0, seed=1)
    assert first != poisson_schedule(50.0, 10.0, seed=2)


def test_arrivals_are_poisson() -> None:
    times = poisson_schedule(100.0, 200.0, seed=0)
    assert times == sorted(times)
    assert 0 <= times[0] and times[-1] < 200
    # 20,000 arrivals expected, standard deviation 141
    assert abs(len(times) - 20_000) < 700
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    # exponential gaps: the standard deviation equals the mean
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)


@pytest.mark.parametrize(("rate", "seconds"), [(0.0, 1.0), (1.0, -1.0)])
def test_a_schedule_needs_positive_numbers(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        poisson_schedule(rate, seconds, 0)


async def test_a_stalled_server_is_charged_from_when_requests_were_due() -> None:
    """Every request due during a stall is late by what is left of the stall."""
    stall, stalled = 0.5, asyncio.Event()

    async def answer(number: int) -> bytes:
        if number == 0:
            asyncio.get_running_loop().call_later(stall, stalled.set)
        await stalled.wait()
        return OK

    schedule = [0.0, 0.1, 0.2, 0.3]
    async with server(answer) as url:
        result = await offer(url, schedule, lambda _: b"{}", seconds=1.0)
    assert [outcome.due for outcome in result.outcomes] == schedule
    for outcome in result.outcomes:
        assert outcome.latency >= stall - outcome.due - 0.05
    # the last one was due 0.3 s into the stall: it alone is early enough
    assert sum(outcome.latency <= stall - 0.25 for outcome in result.outcomes) <= 1


async def test_a_generator_that_is_late_itself_still_counts_from_the_due_time() -> None:
    """A schedule that lies in the past: the wait before sending is part of the latency."""
    async with server(always(OK)) as url:
        result = await offer(url, [-1.0], lambda _: b"{}", seconds=1.0)
    assert result.outcomes[0].latency >= 1.0


@pytest.mark.parametrize(
    ("response", "status", "retry_after"),
    [
        (OK, 200, False),
        (b"HTTP/1.1 429 No\r\nRetry-After: 2\r\ncontent-length: 0\r\n\r\n", 429, True),
        (b"HTTP/1.1 429 No\r\nRetry-After: soon\r\ncontent-length: 0\r\n\r\n", 429, False),
        (b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 503, False),
    ],
    ids=["ok", "429", "429 without seconds", "chunked"],
)
async def test_answers_are_read(response: bytes, status: int, retry_after: bool) -> None:
    outcome = await ask(response)
    assert (outcome.status, outcome.retry_after, outcome.error) == (status, retry_after, "")


async def test_a_broken_answer_and_a_refused_connection_are_errors() -> None:
    assert (await ask(b"nonsense\r\n\r\n")).error
    async with server(always(OK)) as url:
        pass
    result = await offer(url, [0.0], lambda _: b"{}", seconds=1.0)
    assert result.outcomes[0].status == 0
    assert result.improper.total() == 1


async def test_no_answer_in_time_is_an_error() -> None:
    never = asyncio.Event()

    async def answer(_: int) -> bytes:
        await never.wait()
        return OK

    async with server(answer) as url:
        result = await offer(url, [0.0], lambda _: b"{}", seconds=1.0, give_up_after=0.1)
        never.set()
    assert result.improper == {"no answer in time": 1}


def test_outcomes_are_told_apart() -> None:
    outcomes = (
        Outcome(0.0, 0.1, 200),
        Outcome(0.0, 0.9, 200),
        Outcome(0.0, 0.1, 429, retry_after=True),
        Outcome(0.0, 0.1, 429),
        Outcome(0.0, 0.1, 408),
        Outcome(0.0, 0.1, 0, error="ConnectionResetError"),
    )
    result = LoadResult(outcomes, seconds=2.0)
    assert result.goodput(0.5) == 0.5
    assert result.latency(0.99) == 0.9
    assert result.rejected == 1
    assert result.improper == {"429 without Retry-After": 1, "408": 1, "ConnectionResetError": 1}
