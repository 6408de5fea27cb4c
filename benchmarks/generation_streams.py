"""Theme `generation` over HTTP: many streams at once, against the llama.cpp server.

Both servers are asked for whole answers over loopback, from as many threads as there are streams,
in alternation. llama.cpp's has as many slots as there are streams, ours 32 throughout.
"""

from __future__ import annotations

import http.client
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import generation_work
from benchmarks.child import Child
from benchmarks.generation_work import MODEL, Work, prompts
from benchmarks.harness import (
    BenchmarkError,
    Figure,
    Goal,
    NotRun,
    Options,
    Row,
    Samples,
    interleave,
)
from benchmarks.peers import llama_server
from benchmarks.servers import start_ours

logger = logging.getLogger(__name__)

PEER = "llama.cpp server"
GOALS = {1: 2.2, 8: 3.5, 32: 4.0}
CAPPED_GOALS = {8: 2.5}
_BUILDERS = {
    1: "benchmarks.peers.llama_server:build_1",
    8: "benchmarks.peers.llama_server:build",
    32: "benchmarks.peers.llama_server:build_32",
}
_PROMPT = 64
_TIMEOUT = 300.0


def stream_rows(options: Options, file: Path, rounds: int) -> list[Row]:
    """Tokens a second of 1, 8 and 32 streams, ours and the peer's.

    Raises:
        BenchmarkError: a server does not start, or an answer is not what was asked for.
    """
    new_tokens = 24 if options.quick else 64
    folder = generation_work.folder_of(file)
    texts = prompts(options.data, folder, max(GOALS), _PROMPT, options.seed + 3)
    rows = []
    with ExitStack() as stack:
        # short, since Ray puts socket paths below it
        work_dir = Path(tempfile.mkdtemp(prefix="ib-", dir="/tmp"))
        stack.callback(shutil.rmtree, work_dir, ignore_errors=True)
        slots = {"IRONCLIW_SERVE__GENERATION_SLOTS": str(max(GOALS))}
        server = stack.enter_context(start_ours(options, work_dir, **slots))
        server.wait_ready()
        url = server.url.replace("/embeddings", "/completions")
        for count in GOALS:
            logger.info("%d streams over HTTP, %d rounds", count, rounds)
            work = Work(texts[:count], new_tokens)
            ours, peer = _measure(options, file, work, url, work_dir, rounds)
            rows.append(build_row(count, ours, peer, options.cap))
    return rows


def build_row(count: int, ours: Figure, peer: Figure, cap: str | None) -> Row:
    """The row of one number of streams."""
    bound = (CAPPED_GOALS if cap else GOALS).get(count)
    goal = None if bound is None else Goal(bound, relative=True)
    name = f"{count} stream{'s' if count > 1 else ''} over HTTP"
    return Row("generation", name, "tokens/s", ours, {PEER: peer}, goal)


def ask(url: str, work: Work) -> float:
    """Seconds until all answers to the work are there, each asked for by a thread of its own.

    Raises:
        BenchmarkError: an answer was refused, or is shorter than it should be.
    """
    with ThreadPoolExecutor(len(work.prompts)) as threads:
        started = time.perf_counter()
        tasks = [threads.submit(_complete, url, prompt, work.new_tokens) for prompt in work.prompts]
        for task in tasks:
            task.result()
        return time.perf_counter() - started


def _measure(
    options: Options, file: Path, work: Work, url: str, folder: Path, rounds: int
) -> tuple[Figure, Figure]:
    reason = llama_server.missing(options.cap)
    timers: dict[str, Callable[[], float]] = {"ours": partial(ask, url, work)}
    count = len(work.prompts)
    with ExitStack() as stack:
        if reason is None:
            log = folder / f"llama-{count}.log"
            environment = options.child_environment()
            child = stack.enter_context(
                Child(_BUILDERS[count], file, options.threads, environment, log)
            )
            reason = child.wait_ready(_TIMEOUT)
        if reason is None:
            child.call(op="texts", name="work", texts=[work.text()])
            timers[PEER] = partial(_peer_seconds, child)
        for timer in timers.values():
            timer()  # warm-up, not counted; ours loads the model in it
        taken = interleave(timers, rounds)
    rates = {
        who: Samples.of(work.generated / seconds for seconds in values)
        for who, values in taken.items()
    }
    return rates["ours"], rates.get(PEER) or reason or NotRun("no figure")


def _peer_seconds(child: Child) -> float:
    return float(child.call(op="time", name="work")["seconds"])


def _complete(url: str, prompt: list[int], new_tokens: int) -> None:
    parts = urlsplit(url)
    body = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": new_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT)
    headers = {"content-type": "application/json", "x-request-timeout-seconds": f"{_TIMEOUT:g}"}
    try:
        connection.request("POST", parts.path, json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise BenchmarkError(f"{url} answered {response.status}: {content[:500]!r}")
    generated = json.loads(content)["usage"]["completion_tokens"]
    if generated != new_tokens:
        raise BenchmarkError(f"{url} gave {generated} tokens instead of {new_tokens}")
