"""Theme `native`, generation: one stream against memory's speed, llama.cpp and a busy neighbour.

Our engine and the llama.cpp server have a process each, as in theme `generation`.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks import generation_work, roofline
from benchmarks.child import Child
from benchmarks.generation_work import Work, prompts
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
from native_ops.gguf import GgufFile

logger = logging.getLogger(__name__)

THEME = "native"
OURS, SERVER = "ironcliw", "llama.cpp server"
PROMPT, LONG_PROMPT = 64, 800
SHARE_GOAL = Goal(0.65, relative=True)
KEPT_GOAL = Goal(0.6, relative=True)
_BUILDERS = {
    OURS: "benchmarks.generation_work:build",
    SERVER: "benchmarks.peers.llama_server:build_1",
}
_READ = "benchmarks.roofline:build"
_START_SECONDS = 300.0
_NEIGHBOUR_SECONDS = 300.0
# llama.cpp's threads wait for each other in every operator: a token may take it seconds
_TOKENS_BESIDE = 32
_BURNER = """
import sys, time
end = time.monotonic() + float(sys.argv[1])
sys.stdout.write("busy\\n")
sys.stdout.flush()
while time.monotonic() < end:
    sum(range(1000))
"""


def generation_rows(options: Options) -> list[Row]:
    """Bandwidth and the share of it, one stream and a prompt, and both beside a busy process.

    Raises:
        BenchmarkError: the data is missing, or a contestant died.
    """
    rounds = options.rounds or (2 if options.quick else 5)
    file = generation_work.gguf_file()
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        children, missing = start(stack, options, file, logs)
        works = choose_work(options, generation_work.folder_of(file))
        for child in children.values():
            for name, work in works.items():
                child.call(op="texts", name=name, texts=[work.text()])
        readers = {threads: _reader(stack, options, threads, logs) for threads in (1, 2)}
        logger.info("one stream and reading memory, %d rounds", rounds)
        stream_seconds, first_seconds, reads = measure_with_reads(children, readers, rounds)
        logger.info("a prompt, %d rounds", rounds)
        prompt_seconds = measure(children, "prompt", rounds)
        logger.info("one stream beside a busy process, %d rounds", rounds)
        alone, beside = measure_beside(children, "beside", rounds)
    bandwidth = {
        threads: Samples.of(roofline.gigabytes_per_second(value) for value in values)
        for threads, values in reads.items()
    }
    stream, prompt = works["stream"], works["prompt"]
    rates = rates_of(stream_seconds, stream.generated, missing)
    rows = bandwidth_rows(bandwidth)
    rows.append(
        share_row(
            decode_rates(stream_seconds[OURS], first_seconds, stream),
            traffic(file, stream),
            bandwidth,
        )
    )
    rows += peer_rows(rates, rates_of(prompt_seconds, len(prompt.prompts[0]), missing), options.cap)
    generated = works["beside"].generated
    undisturbed = rates_of(alone, generated, missing)[OURS]
    rows += neighbour_rows(undisturbed, rates_of(beside, generated, missing))
    return rows


def choose_work(options: Options, folder: Path) -> dict[str, Work]:
    """One stream, its first token alone, a long prompt, and a shorter stream."""
    (short,) = prompts(options.data, folder, 1, PROMPT, options.seed + 4)
    (long,) = prompts(options.data, folder, 1, LONG_PROMPT, options.seed + 5)
    new_tokens = 48 if options.quick else 128
    return {
        "stream": Work([short], new_tokens),
        "first": Work([short], 1),
        "prompt": Work([long], 1),
        "beside": Work([short], _TOKENS_BESIDE),
    }


def start(
    stack: ExitStack, options: Options, file: Path, logs: Path
) -> tuple[dict[str, Child], dict[str, NotRun]]:
    """Our engine and the peer, ready; and why one of them is not."""
    absent = llama_server.missing(options.cap)
    missing = {} if absent is None else {SERVER: absent}
    children = {}
    for name, builder in _BUILDERS.items():
        if name in missing:
            continue
        log = logs / f"{name.replace(' ', '-')}.log"
        child = Child(builder, file, options.threads, options.child_environment(), log)
        children[name] = stack.enter_context(child)
        reason = child.wait_ready(_START_SECONDS)
        if reason is not None:
            missing[name] = reason
            del children[name]
    return children, missing


def measure(children: Mapping[str, Child], name: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of a piece of work, once a round each, after one that is not counted."""
    timers = {who: partial(_seconds, child, name) for who, child in children.items()}
    for timer in timers.values():
        timer()
    return interleave(timers, rounds)


def measure_with_reads(
    children: Mapping[str, Child], readers: Mapping[int, Child], rounds: int
) -> tuple[dict[str, list[float]], list[float], dict[int, list[float]]]:
    """Seconds of the stream, of our first token and of the reads by threads, in alternation.

    The roof moves with what others do on the host: it is taken in each round, beside our stream.
    """
    ours = children[OURS]
    timers: dict[tuple[str, str | int], Callable[[], float]] = {
        ("stream", who): partial(_seconds, child, "stream") for who, child in children.items()
    }
    timers |= {("first", OURS): partial(_seconds, ours, "first")}
    timers |= {("read", n): partial(_seconds, child, "read") for n, child in readers.items()}
    for timer in timers.values():
        timer()
    taken = interleave(timers, rounds)
    streams = {who: taken["stream", who] for who in children}
    return streams, taken["first", OURS], {n: taken["read", n] for n in readers}


def measure_beside(
    children: Mapping[str, Child], name: str, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The same, alone and beside a busy process, in alternation."""

    def beside(child: Child) -> float:
        with neighbour():
            return _seconds(child, name)

    alone = {who: partial(_seconds, child, name) for who, child in children.items()}
    disturbed = {f"{who}, beside": partial(beside, child) for who, child in children.items()}
    taken = interleave({**alone, **disturbed}, rounds)
    return {who: taken[who] for who in alone}, {who: taken[f"{who}, beside"] for who in alone}


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that keeps one core busy; it ends with the block, or after five minutes.

    Raises:
        BenchmarkError: it did not start, or ended before the block did.
    """
    command = [sys.executable, "-c", _BURNER, str(_NEIGHBOUR_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "busy\n":
                raise BenchmarkError("the busy process did not start")
            yield
            if process.poll() is not None:
                raise BenchmarkError(
                    f"the busy process ended after {_NEIGHBOUR_SECONDS:.0f} s, before the figures "
                    "beside it were taken"
                )
        finally:
            process.kill()


def rates_of(
    seconds: Mapping[str, list[float]], tokens: int, missing: Mapping[str, NotRun]
) -> dict[str, Figure]:
    """Tokens a second of each contestant."""
    rates: dict[str, Figure] = {
        who: Samples.of(tokens / value for value in values) for who, values in seconds.items()
    }
    return {**missing, **rates}


def decode_rates(whole: Sequence[float], first: Sequence[float], work: Work) -> Figure:
    """Our tokens a second once the prompt is read: its time, to the first token, is taken off."""
    pairs = list(zip(whole, first, strict=True))
    if any(both <= alone for both, alone in pairs):
        return NotRun("the first token alone took as long as the whole stream: the machine is busy")
    return Samples.of((work.new_tokens - 1) / (both - alone) for both, alone in pairs)


def traffic(path: Path, work: Work) -> float:
    """Bytes that a token reads on average: weights, and the KV cache as it grows."""
    file = GgufFile.read(path)
    context = len(work.prompts[0]) + work.new_tokens / 2
    return roofline.weight_bytes(file) + roofline.kv_bytes(file, context)


def bandwidth_rows(bandwidth: Mapping[int, Samples]) -> list[Row]:
    """The measured roof, for information."""
    size = f"{roofline.READ_BYTES >> 20} MB"
    return [
        Row(THEME, f"reading {size}, {count} thread{'s' if count > 1 else ''}", "GB/s", figure)
        for count, figure in bandwidth.items()
    ]


def share_row(rates: Figure, token_bytes: float, bandwidth: Mapping[int, Samples]) -> Row:
    """What one stream reads, against the fastest read of the same round."""
    ours: Figure = rates
    if isinstance(rates, Samples):
        ours = Samples.of(rate * token_bytes / 1e9 for rate in rates.values)
    rounds = zip(*(figure.values for figure in bandwidth.values()), strict=True)
    roof = Samples.of(max(reads) for reads in rounds)
    name = f"1 stream: weights and KV cache read, {token_bytes / 1e6:.0f} MB a token"
    return Row(THEME, name, "GB/s", ours, {"the fastest read": roof}, SHARE_GOAL)


def peer_rows(
    stream: Mapping[str, Figure], prompt: Mapping[str, Figure], cap: str | None
) -> list[Row]:
    """One stream and a long prompt against llama.cpp."""
    goals = (2.0, 4.0) if cap else (3.0, 8.0)
    named = (("1 stream", stream), (f"prompt of {LONG_PROMPT} tokens", prompt))
    return [
        Row(
            THEME, name, "tokens/s", rates[OURS], {SERVER: rates[SERVER]}, Goal(goal, relative=True)
        )
        for (name, rates), goal in zip(named, goals, strict=True)
    ]


def neighbour_rows(alone: Figure, beside: Mapping[str, Figure]) -> list[Row]:
    """What a busy process leaves of one stream, and of the peer's."""
    name = "1 stream beside a busy process"
    goal = Goal(3.0, relative=True)
    return [
        Row(THEME, f"{name}, against alone", "tokens/s", beside[OURS], {"alone": alone}, KEPT_GOAL),
        Row(THEME, name, "tokens/s", beside[OURS], {SERVER: beside[SERVER]}, goal),
    ]


def _reader(stack: ExitStack, options: Options, threads: int, logs: Path) -> Child:
    environment = options.child_environment(OMP_NUM_THREADS=str(threads))
    log = logs / f"read-{threads}.log"
    child = stack.enter_context(Child(_READ, Path(), threads, environment, log))
    reason = child.wait_ready(_START_SECONDS)
    if reason is not None:
        raise BenchmarkError(f"memory could not be read: {reason}")
    child.call(op="texts", name="read", texts=[])
    _seconds(child, "read")  # warm-up, not counted
    return child


def _seconds(child: Child, name: str) -> float:
    return float(child.call(op="time", name=name)["seconds"])
