"""Theme `generation` over HTTP: what the service adds to the first token, and its memory."""

from __future__ import annotations

import http.client
import json
import logging
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from benchmarks import generation_work
from benchmarks.child import Child
from benchmarks.generation_work import MODEL, Work, prompts
from benchmarks.harness import (
    BenchmarkError,
    Goal,
    Options,
    Row,
    Samples,
    interleave,
    percentile,
)
from benchmarks.servers import Server, start_ours

logger = logging.getLogger(__name__)

FIRST_GOAL = Goal(8.0, at_most=True)
MEMORY_GOAL = Goal(2.2, at_most=True)
_PROMPT = 64
_NEW_TOKENS = 4
_LOAD_SECONDS = 180.0
_BLOCK = 5
"""Requests in a row before the other side takes its turn."""


def http_rows(options: Options, file: Path) -> list[Row]:
    """Time to the first token and memory, with our server alone on the machine.

    Raises:
        BenchmarkError: the server does not start or answer.
    """
    blocks = 2 if options.quick else 12
    folder = generation_work.folder_of(file)
    texts = prompts(options.data, folder, 2 * blocks * _BLOCK + 2, _PROMPT, options.seed + 2)
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
        environment = options.child_environment()
        child = Child(
            "benchmarks.generation_work:build", file, options.threads, environment, work / "log"
        )
        stack.enter_context(child).wait_ready(_LOAD_SECONDS)
        _engine(child, next(pending), work)

        def over_http() -> list[float]:
            return [first_token(url, next(pending)) for _ in range(_BLOCK)]

        def in_process() -> list[float]:
            return [_engine(child, next(pending), work) for _ in range(_BLOCK)]

        taken = interleave({"http": over_http, "engine": in_process}, blocks)
    return build_rows(taken["http"], taken["engine"], memory)


def build_rows(http: list[list[float]], engine: list[list[float]], memory: Samples) -> list[Row]:
    """Rows from seconds to the first token, block by block, and memory in GB."""
    whole, own = (
        1e3 * percentile([value for block in blocks for value in block], 0.5)
        for blocks in (http, engine)
    )
    theme = "generation"
    return [
        Row(
            theme,
            "first token over HTTP beyond the engine's own, p50",
            "ms",
            Samples.of([whole - own]),
            goal=FIRST_GOAL,
        ),
        Row(theme, "first token over HTTP, p50", "ms", Samples.of([whole])),
        Row(theme, "first token of the engine in process, p50", "ms", Samples.of([own])),
        Row(theme, "memory, MiniLM and SmolLM2 loaded", "GB PSS", memory, goal=MEMORY_GOAL),
    ]


def first_token(url: str, prompt: list[int], timeout: float = 60.0) -> float:
    """Seconds from sending a streamed completion to its first event; reads it to the end.

    Raises:
        BenchmarkError: it was refused, or ended without [DONE].
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    body = {
        "model": MODEL,
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


def _engine(child: Child, prompt: list[int], work: Path) -> float:
    path = work / "first.npy"
    child.call(op="texts", name="first", texts=[Work([prompt], _NEW_TOKENS).text()])
    child.call(op="vectors", name="first", path=str(path))
    return float(np.load(path)[0])


def _memory(server: Server, options: Options) -> Samples:
    # what a start still has to tidy up after the first answers is not resident for long
    time.sleep(2.0 if options.quick else 15.0)
    return Samples.of([server.memory_bytes() / 1e9])
