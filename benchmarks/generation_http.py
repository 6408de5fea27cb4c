"""Theme `generation` over HTTP: what the service adds to the first token, and its memory."""

from __future__ import annotations

import http.client
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from benchmarks import generation_work
from benchmarks.generation_work import MODEL, prompts
from benchmarks.harness import (
    BenchmarkError,
    Goal,
    Options,
    Row,
    Samples,
    percentile,
)
from benchmarks.servers import Server, start_ours

logger = logging.getLogger(__name__)

FIRST_GOAL = Goal(8.0, at_most=True)
MEMORY_GOAL = Goal(2.2, at_most=True)
_PROMPT = 64
_NEW_TOKENS = 1
_STATS_FRESH = 0.6
"""The server answers with figures of up to half a second ago."""
_LOAD_SECONDS = 180.0


def http_rows(options: Options, file: Path) -> list[Row]:
    """Time to the first token and memory, with our server alone on the machine.

    Raises:
        BenchmarkError: the server does not start or answer.
    """
    count = 10 if options.quick else 60
    folder = generation_work.folder_of(file)
    texts = prompts(options.data, folder, count + 1, _PROMPT, options.seed + 2)
    pending = iter(texts)
    with ExitStack() as stack:
        # short, since Ray puts socket paths below it
        work = Path(tempfile.mkdtemp(prefix="ib-", dir="/tmp"))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        server = stack.enter_context(start_ours(options, work))
        server.wait_ready()
        url = server.url.replace("/embeddings", "/completions")
        logger.info("our server is up; loading %s", MODEL)
        first_token(url, next(pending), _LOAD_SECONDS)
        memory = _memory(server, options)
        pairs = [_pair(url, next(pending)) for _ in range(count)]
    return build_rows(pairs, memory)


def build_rows(pairs: Sequence[tuple[float, float]], memory: Samples) -> list[Row]:
    """Rows from (seconds to the first token over HTTP, the engine's own), and memory in GB."""
    whole, own = (1e3 * percentile([pair[side] for pair in pairs], 0.5) for side in (0, 1))
    beyond = 1e3 * percentile([whole - own for whole, own in pairs], 0.5)
    theme = "generation"
    return [
        Row(
            theme,
            "first token over HTTP beyond the engine's own, p50",
            "ms",
            Samples.of([beyond]),
            goal=FIRST_GOAL,
        ),
        Row(theme, "first token over HTTP, p50", "ms", Samples.of([whole])),
        Row(theme, "first token of the engine, p50", "ms", Samples.of([own])),
        Row(theme, "memory, MiniLM and SmolLM2 loaded", "GB PSS", memory, goal=MEMORY_GOAL),
    ]


def first_token(url: str, prompt: list[int], timeout: float = 60.0, *, model: str = MODEL) -> float:
    """Seconds from sending a streamed completion to its first event; reads it to the end.

    Raises:
        BenchmarkError: it was refused, or ended without [DONE].
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": _NEW_TOKENS,
        "temperature": 0,
        "stream": True,
    }
    content = json.dumps(body)
    try:
        connection.connect()
        started = time.perf_counter()
        connection.request("POST", parts.path, content, {"content-type": "application/json"})
        response = connection.getresponse()
        line = response.readline()
        seconds = time.perf_counter() - started
        rest = response.read()
    finally:
        connection.close()
    if response.status != 200 or not line.startswith(b"data:") or b"[DONE]" not in rest:
        raise BenchmarkError(f"{url} answered {response.status}: {(line + rest)[:500]!r}")
    return seconds


def _pair(url: str, prompt: list[int]) -> tuple[float, float]:
    """Seconds to the first token over HTTP, and those of them that the engine computed."""
    before = _step_seconds(url)
    seconds = first_token(url, prompt)
    return seconds, _step_seconds(url) - before


def _step_seconds(url: str) -> float:
    """What the model's forward passes and draws have taken since it was loaded."""
    time.sleep(_STATS_FRESH)
    status = httpx.get(url.replace("/v1/completions", "/v1/status"), timeout=30).json()
    for row in status["models"]:
        if row["id"] == MODEL:
            return float(row["generation"]["step_seconds"])
    raise BenchmarkError(f"/v1/status has no row of {MODEL}; degraded: {status['degraded']}")


def _memory(server: Server, options: Options) -> Samples:
    # what a start still has to tidy up after the first answers is not resident for long
    time.sleep(2.0 if options.quick else 15.0)
    return Samples.of([server.memory_bytes() / 1e9])
