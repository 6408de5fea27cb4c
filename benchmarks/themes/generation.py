"""Theme `generation`: SmolLM2-135M in process against the usual ways, then over HTTP.

Each contestant has a process of its own with the same thread count, the same prompts as token ids,
and generates exactly as many tokens, greedily; they are measured in alternation. llama.cpp and our
engine compute the model as it ships (Q4_1), transformers the same weights in 16 or 32 bits.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import generation_work
from benchmarks.child import Child
from benchmarks.generation_http import http_rows
from benchmarks.generation_streams import stream_rows
from benchmarks.generation_work import STALLED_STREAMS, STREAMS, Work, prompts
from benchmarks.harness import Figure, Goal, NotRun, Options, Row, Samples, ThemeResult, interleave
from benchmarks.peers import llama_cpp_python, llama_server

logger = logging.getLogger(__name__)

THEME = "generation"
OURS, OURS_LLAMA = "ironcliw", "ironcliw on llama.cpp"
BF16, FP32 = "transformers bf16", "transformers fp32"
BATCHING = "transformers continuous batching bf16"
PYTHON, SERVER = "llama-cpp-python", "llama.cpp server"
BUILDERS = {
    OURS: "benchmarks.generation_work:build",
    OURS_LLAMA: "benchmarks.generation_work:build_llamacpp",
    BF16: "benchmarks.peers.transformers_generate:build_bf16",
    FP32: "benchmarks.peers.transformers_generate:build_fp32",
    BATCHING: "benchmarks.peers.transformers_batching:build_bf16",
    PYTHON: "benchmarks.peers.llama_cpp_python:build",
    SERVER: "benchmarks.peers.llama_server:build",
}
PROMPT, LONG_PROMPT = 64, 800
GOALS = {
    ("1 stream", BF16): 1.2,
    (f"{STREAMS} streams", BF16): 1.2,
    ("1 stream", SERVER): 3.0,
    ("prefill", SERVER): 8.0,
}
"""Least ratio to a peer."""
CAPPED_GOALS = {
    ("1 stream", SERVER): 2.0,
    (f"{STREAMS} streams", SERVER): 2.5,
    ("prefill", SERVER): 4.0,
}
_EMULATED = NotRun("products in bfloat16 are emulated below AVX-512: minutes for one answer")
STALL_GOAL = Goal(3.0, at_most=True)
_START_SECONDS = 300.0


def run(options: Options) -> ThemeResult:
    """Measure in process, then over HTTP.

    Raises:
        BenchmarkError: the data is missing, a contestant died, or our server does not start.
    """
    rounds = options.rounds or (1 if options.quick else 5)
    file = generation_work.gguf_file()
    work = choose_work(options, generation_work.folder_of(file))
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        logger.info("loading %d contestants", len(BUILDERS))
        children, missing = _start(stack, options, file, logs)
        for child in children.values():
            for name, item in work.items():
                child.call(op="texts", name=name, texts=[item.text()])
        rates = {
            name: _rates(name, work[name], children, missing, rounds)
            for name in ("1 stream", f"{STREAMS} streams", "prefill")
        }
        stalls = [_stall(children[OURS], logs) for _ in range(rounds + 1)][1:]
    rows = [row for name, found in rates.items() for row in rate_rows(name, found, options.cap)]
    rows += stall_rows(stalls)
    rows += http_rows(options, file)
    rows += stream_rows(options, file, rounds)
    return ThemeResult(rows, _remarks(options, rounds, work))


def choose_work(options: Options, folder: Path) -> dict[str, Work]:
    """The pieces of work of a run by name; shorter answers with `quick`."""
    new_tokens = 24 if options.quick else 64
    short = prompts(options.data, folder, STREAMS, PROMPT, options.seed)
    (long,) = prompts(options.data, folder, 1, LONG_PROMPT, options.seed + 1)
    return {
        "1 stream": Work(short[:1], new_tokens),
        f"{STREAMS} streams": Work(short, new_tokens),
        "prefill": Work([long], 1),
        # long enough that no stream ends before the long prompt is read
        "stall": Work([*short[:STALLED_STREAMS], long], 400),
    }


def rate_rows(name: str, rates: Mapping[str, Figure], cap: str | None = None) -> list[Row]:
    """Ours against each contestant: tokens a second, of the prompt for `prefill`."""
    ours = rates[OURS]
    goals = CAPPED_GOALS if cap else GOALS
    title = f"prompt of {LONG_PROMPT} tokens" if name == "prefill" else name
    return [
        Row(
            THEME,
            f"{title} against {peer}",
            "tokens/s",
            ours,
            {peer: figure},
            Goal(goals[name, peer], relative=True) if (name, peer) in goals else None,
        )
        for peer, figure in rates.items()
        if peer != OURS
    ]


def stall_rows(stalls: list[list[float]]) -> list[Row]:
    """What `generation_work.stall` gave, once a round."""
    columns = [Samples.of(column) for column in zip(*stalls, strict=True)]
    names = (
        (f"longest stall of {STALLED_STREAMS} streams while {LONG_PROMPT} tokens are read", "x"),
        (f"token time of {STALLED_STREAMS} streams", "ms"),
        ("the longest stall", "ms"),
        (f"first token of the {LONG_PROMPT} token prompt beside them", "ms"),
    )
    goals = (STALL_GOAL, None, None, None)
    return [
        Row(THEME, name, unit, column, goal=goal)
        for (name, unit), column, goal in zip(names, columns, goals, strict=True)
    ]


def _start(
    stack: ExitStack, options: Options, file: Path, logs: Path
) -> tuple[dict[str, Child], dict[str, NotRun]]:
    absent = {
        OURS_LLAMA: llama_cpp_python.missing(options.cap),
        PYTHON: llama_cpp_python.missing(options.cap),
        SERVER: llama_server.missing(options.cap),
        **dict.fromkeys((BF16, BATCHING), _EMULATED if options.cap else None),
    }
    missing = {name: reason for name, reason in absent.items() if reason is not None}
    children: dict[str, Child] = {}
    for index, (name, builder) in enumerate(BUILDERS.items()):
        if name in missing:
            continue
        variables = llama_cpp_python.variables() if name in (OURS_LLAMA, PYTHON) else {}
        environment = options.child_environment(**variables)
        child = Child(builder, file, options.threads, environment, logs / f"{index}.log")
        children[name] = stack.enter_context(child)
        # one after the other: they convert and load the same files
        reason = child.wait_ready(_START_SECONDS)
        if reason is not None:
            missing[name] = reason
            del children[name]
    return children, missing


def _rates(
    name: str,
    work: Work,
    children: Mapping[str, Child],
    missing: Mapping[str, NotRun],
    rounds: int,
) -> dict[str, Figure]:
    logger.info("%s, %d rounds", name, rounds)
    # serialised, llama-cpp-python is its single stream again
    skipped = {PYTHON: NotRun("it serialises streams")} if len(work.prompts) > 1 else {}
    takers = {who: child for who, child in children.items() if who not in skipped}
    timers = {who: partial(_seconds, child, name) for who, child in takers.items()}
    for timer in timers.values():
        timer()  # warm-up, not counted
    tokens = len(work.prompts[0]) if name == "prefill" else work.generated
    taken = interleave(timers, rounds)
    rates: dict[str, Figure] = {
        who: Samples.of(tokens / seconds for seconds in values) for who, values in taken.items()
    }
    return {who: {**missing, **skipped, **rates}[who] for who in BUILDERS}


def _seconds(child: Child, name: str) -> float:
    return float(child.call(op="time", name=name)["seconds"])


def _stall(child: Child, logs: Path) -> list[float]:
    path = logs / "stall.npy"
    child.call(op="vectors", name="stall", path=str(path))
    return [float(value) for value in np.load(path)]


def _remarks(options: Options, rounds: int, work: Mapping[str, Work]) -> list[str]:
    new_tokens = work["1 stream"].new_tokens
    setting = (
        f"Prompts of {PROMPT} tokens from GSM8K, {new_tokens} new tokens a stream, greedy, seed "
        f"{options.seed}, {rounds} rounds in alternation, {options.threads} threads for each "
        "contestant. Rates count generated tokens, and the time includes reading the prompts."
    )
    peers = (
        "llama.cpp and ours compute the Q4_1 file, the others the same weights in 16 or 32 bits. "
        "The server is driven over loopback HTTP, without streaming, as ours is in the rows over "
        "HTTP, where it has as many slots as there are streams, ours always 32."
    )
    stall = (
        "Stall: the longest time between two tokens of a running stream from the moment the long "
        "prompt is submitted to its first token, over the median before that moment."
    )
    http = (
        "Over HTTP: `/v1/completions`, streamed, one client, one token each; the engine's own time "
        "is that of the same request's forward pass and draw, from the server's status."
    )
    return [setting, peers, stall, http]
