"""Open-loop load: requests are sent when they are due, whether or not the server keeps up.

Arrivals are a Poisson process, drawn beforehand from a seed. Latency counts from the moment a
request was due, not from when it could be sent: a server that stalls is charged for every
request that it kept waiting (coordinated omission, G. Tene).
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import urlsplit

from benchmarks.harness import percentile

# More connections than this at once would measure the kernel, not the server.
MAX_CONNECTIONS = 512


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request; times in seconds since the start of the run.

    Attributes:
        due: When it should have been sent.
        finished: When its answer was complete, or it failed.
        status: HTTP status; 0 when there was no answer.
        retry_after: Whether the answer carried a `Retry-After` of whole seconds.
        error: What went wrong where there was no answer.
        variant: Who answered, as our answers say it in `x-ironcliw-variant`.
    """

    due: float
    finished: float
    status: int
    retry_after: bool = False
    error: str = ""
    variant: str = ""

    @property
    def latency(self) -> float:
        """Seconds from when it was due until its answer was complete."""
        return self.finished - self.due


@dataclasses.dataclass(frozen=True, slots=True)
class LoadResult:
    """All outcomes of a run of so many seconds of arrivals."""

    outcomes: tuple[Outcome, ...]
    seconds: float

    def goodput(self, slo: float) -> float:
        """Answers a second that came within the objective (seconds)."""
        return sum(o.status == 200 and o.latency <= slo for o in self.outcomes) / self.seconds

    def latency(self, share: float) -> float:
        """A percentile of the latency of answered requests, in seconds."""
        return percentile((o.latency for o in self.outcomes if o.status == 200), share)

    @property
    def rejected(self) -> int:
        """Requests that were turned away as agreed: 429 with a usable `Retry-After`."""
        return sum(o.status == 429 and o.retry_after for o in self.outcomes)

    @property
    def improper(self) -> Counter[str]:
        """Everything that is neither an answer nor a proper rejection, by kind."""
        return Counter(
            o.error or f"{o.status}" + (" without Retry-After" if o.status == 429 else "")
            for o in self.outcomes
            if o.status != 200 and not (o.status == 429 and o.retry_after)
        )


def poisson_schedule(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times in [0, seconds) of a Poisson process of `rate` a second.

    Raises:
        ValueError: the rate or the time is not positive.
    """
    if rate <= 0 or seconds <= 0:
        raise ValueError(f"rate {rate} and seconds {seconds} must be positive")
    generator = random.Random(seed)
    times: list[float] = []
    now = generator.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += generator.expovariate(rate)
    return times


async def offer(
    url: str,
    schedule: Sequence[float],
    body: Callable[[int], bytes],
    *,
    seconds: float,
    headers: Iterable[tuple[str, str]] = (),
    give_up_after: float = 30.0,
) -> LoadResult:
    """Send each request when it is due and wait for every answer.

    Args:
        url: Where to post.
        schedule: Seconds from the start at which requests are due.
        body: JSON body of the request with a given index.
        seconds: Length of the schedule, for rates.
        headers: Sent with every request.
        give_up_after: Seconds after which a request without an answer is given up.
    """
    parts = urlsplit(url)
    head = _head(parts.netloc, parts.path, headers)
    pool = _Pool(parts.hostname or "", parts.port or 80)
    loop = asyncio.get_running_loop()
    start = loop.time()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = []
            for index, due in enumerate(schedule):
                await asyncio.sleep(start + due - loop.time())
                exchange = _exchange(pool, head, body(index), due, start, give_up_after)
                tasks.append(group.create_task(exchange))
    finally:
        await pool.close()
    return LoadResult(tuple(task.result() for task in tasks), seconds)


class _Pool:
    """Kept-alive connections; a new one is opened when none is idle."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._opened: list[asyncio.StreamWriter] = []
        self.slots = asyncio.Semaphore(MAX_CONNECTIONS)

    async def take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=2**20)
        self._opened.append(writer)
        return reader, writer

    def give(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._idle.append((reader, writer))

    async def close(self) -> None:
        for writer in self._opened:
            writer.close()
        closing = (writer.wait_closed() for writer in self._opened)
        # a connection that the server has reset raises that once more here
        await asyncio.gather(*closing, return_exceptions=True)


def _head(host: str, path: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("ascii")


async def _exchange(
    pool: _Pool, head: bytes, body: bytes, due: float, start: float, give_up_after: float
) -> Outcome:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(give_up_after), pool.slots:
            status, fields = await _post(pool, head, body)
    except TimeoutError:
        return Outcome(due, loop.time() - start, 0, error="no answer in time")
    except (OSError, EOFError, ValueError) as error:
        return Outcome(due, loop.time() - start, 0, error=type(error).__name__)
    if status == 0:
        return Outcome(due, loop.time() - start, 0, error="no HTTP answer")
    usable = fields.get("retry-after", "").isdigit()
    variant = fields.get("x-ironcliw-variant", "")
    return Outcome(due, loop.time() - start, status, usable, variant=variant)


async def _post(pool: _Pool, head: bytes, body: bytes) -> tuple[int, dict[str, str]]:
    """One HTTP/1.1 exchange (RFC 9112); the answer's body is read and dropped."""
    reader, writer = await pool.take()
    finished = False
    try:
        writer.write(head + f"\r\ncontent-length: {len(body)}\r\n\r\n".encode("ascii") + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines[1:] if line)
        fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
        await _skip_body(reader, fields)
        status = int(lines[0].split(" ")[1]) if lines[0].startswith("HTTP/1.1 ") else 0
        finished = status > 0 and fields.get("connection", "").lower() != "close"
        return status, fields
    finally:
        # a connection with half an answer on it cannot be used again
        if finished:
            pool.give(reader, writer)
        else:
            writer.close()


async def _skip_body(reader: asyncio.StreamReader, fields: dict[str, str]) -> None:
    if fields.get("transfer-encoding", "").lower() != "chunked":
        await reader.readexactly(int(fields.get("content-length", "0")))
        return
    size = -1
    while size != 0:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        await reader.readexactly(size + 2)
