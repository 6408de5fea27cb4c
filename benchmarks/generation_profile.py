"""Where the time of generated text goes: the prompt, the steps, the draws, and between them.

    python -m benchmarks.generation_profile --prompt 64 --tokens 64

Runs our engine in this process, as the service does, with a clock around each forward pass. For
what goes on inside of one, let perf sample the same command: `perf record -e cpu-clock -g -- python
-m benchmarks.generation_profile`, then `perf report`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

from benchmarks.generation_work import Work, answers, folder_of, gguf_file, models_dir, prompts
from benchmarks.harness import BenchmarkError, positive
from benchmarks.machine import data_folder
from benchmarks.native_generation import traffic
from ironcliw.errors import IroncliwError
from ironcliw.settings import load_settings
from serve.generation.protocol import Decoder, Logits, Step
from serve.generation.runner import GenerationRunner
from serve.host import use_cpu_capability

Clock = Callable[[], float]


class ForwardPass(NamedTuple):
    """One call of a decoder: tokens that went in, rows of logits that came out, when."""

    tokens: int
    rows: int
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """That it took."""
        return self.ended - self.began

    @property
    def is_step(self) -> bool:
        """Whether each sequence in it had one token: no part of a prompt."""
        return self.tokens == self.rows


class TimedDecoder:
    """A decoder that notes its forward passes; in all else the one that it is given.

    Args:
        decoder: Computes.
        clock: Seconds.

    Attributes:
        passes: Those since the list was emptied.
    """

    def __init__(self, decoder: Decoder, clock: Clock = time.perf_counter) -> None:
        self._decoder = decoder
        self._clock = clock
        self.passes: list[ForwardPass] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def forward(self, step: Step) -> Logits:
        """As of `Decoder`."""
        began = self._clock()
        logits = self._decoder.forward(step)
        self.passes.append(ForwardPass(len(step.tokens), len(logits), began, self._clock()))
        return logits


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """Seconds of one run, by what they were spent on.

    Attributes:
        start: From the first job's submission to the first forward pass.
        prompts: Forward passes with a part of a prompt, streams' tokens in them included.
        steps: Each of the other ones.
        draws: Choosing the tokens, over all passes, and freeing slots.
        between: The rest: planning, hand-overs, and until the last reader had its last token.
    """

    start: float
    prompts: float
    steps: tuple[float, ...]
    draws: float
    between: float

    @property
    def whole(self) -> float:
        """All of it."""
        return self.start + self.prompts + sum(self.steps) + self.draws + self.between


def split(passes: Sequence[ForwardPass], draws: float, began: float, ended: float) -> Split:
    """Divide the time from `began` to `ended`.

    Raises:
        BenchmarkError: nothing was computed in it.
    """
    if not passes:
        raise BenchmarkError("no forward pass was made, so there is nothing to divide")
    start = passes[0].began - began
    reading = sum(each.seconds for each in passes if not each.is_step)
    steps = tuple(each.seconds for each in passes if each.is_step)
    return Split(start, reading, steps, draws, ended - began - start - reading - sum(steps) - draws)


def measure(decoder: Decoder, work: Work, rounds: int, clock: Clock = time.perf_counter) -> Split:
    """The fastest of so many runs of a piece of work, after one that is not counted.

    Args:
        decoder: Fresh; closed afterwards.
        work: What is generated.
        rounds: 1 or more.
        clock: Seconds.
    """
    timed = TimedDecoder(decoder, clock)
    found = []
    with ThreadPoolExecutor(1, thread_name_prefix="compute") as executor:
        runner = GenerationRunner(cast(Decoder, timed), executor)
        for _ in range(rounds + 1):
            timed.passes.clear()
            before = runner.stats().step_seconds
            began = clock()
            asyncio.run(answers(runner, work))
            ended = clock()
            computed = runner.stats().step_seconds - before
            draws = computed - sum(each.seconds for each in timed.passes)
            found.append(split(timed.passes, draws, began, ended))
        runner.close()
    return min(found[1:], key=lambda each: each.whole)


def report(found: Split, work: Work, token_bytes: float | None = None) -> str:
    """A table of the parts, and the steps one by one in few words.

    Args:
        found: The split.
        work: What was generated.
        token_bytes: What a step reads of weights and KV cache; None leaves its rate out.
    """
    parts = {
        "to the first pass": found.start,
        "prompt": found.prompts,
        f"{len(found.steps)} steps": sum(found.steps),
        "draws": found.draws,
        "between them": found.between,
        "whole": found.whole,
    }
    lines = [
        f"{name:<20}{1e3 * seconds:>10.2f} ms{seconds / found.whole:>8.1%}"
        for name, seconds in parts.items()
    ]
    if found.steps:
        usual = statistics.median(found.steps)
        rate = "" if token_bytes is None else f"; reads {token_bytes / usual / 1e9:.1f} GB/s"
        lines.append(
            f"a step: median {1e3 * usual:.2f} ms, fastest {1e3 * min(found.steps):.2f}, slowest "
            f"{1e3 * max(found.steps):.2f}{rate}"
        )
    lines.append(f"{work.generated / found.whole:.1f} tokens/s generated")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Measure and say so.

    Returns:
        0; 1 where it could not be measured.
    """
    from serve.engines.decoders.load import LoadOptions, load_gguf

    given = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        use_cpu_capability(settings.cpu_capability)
        file: Path = given.file or gguf_file()
        data = data_folder(given.data or settings.bench.data)
        found = prompts(data, folder_of(file), given.streams, given.prompt, seed=4)
        work = Work(found, given.tokens)
        options = LoadOptions(threads=given.threads, slots=given.streams)
        decoder = load_gguf(file, models_dir(), options)
        parts = measure(decoder, work, given.rounds)
        # several streams share the weights, and each has a cache of its own
        read = traffic(file, work) if given.streams == 1 else None
        sys.stdout.write(report(parts, work, read))
    except IroncliwError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generation_profile", description=__doc__.partition("\n")[0]
    )
    add = parser.add_argument
    add("--prompt", type=positive, default=64, metavar="N", help="tokens of each prompt (64)")
    add("--tokens", type=positive, default=64, metavar="N", help="new ones of each stream (64)")
    add("--streams", type=positive, default=1, metavar="N", help="answers at once (1)")
    add("--rounds", type=positive, default=5, metavar="N", help="runs; the fastest is shown (5)")
    add("--threads", type=positive, metavar="N", help="of the forward passes; unset: all cores")
    add("--file", type=Path, metavar="GGUF", help="the model (the bundled one)")
    add("--data", type=Path, metavar="DIR", help="folder of the texts (setting bench.data)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
