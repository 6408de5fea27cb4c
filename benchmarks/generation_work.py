"""What the contestants of theme `generation` compute: the model, the prompts, and our engine.

A piece of work is a JSON text, so that it passes through `benchmarks.child` like any text:
`{"prompts": [[ids], ...], "new_tokens": 64}`; every answer has exactly that many tokens.
Seconds are taken around the whole of it, prompts read included.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import Embed
from benchmarks.harness import BenchmarkError
from ironcliw.catalog import Catalog
from ironcliw.settings import load_settings
from ironcliw.sources import locate
from serve.generation.protocol import Decoder, GenerationJob, Sampling
from serve.generation.runner import GenerationRunner
from serve.host import use_cpu_capability

MODEL = "SmolLM2-135M-Instruct"
STREAMS = 8
STALLED_STREAMS = 7
_SETTLED_TOKENS = 16
"""Tokens of each stream before the long prompt comes; their gaps are the median token time."""
_PROBLEMS = "sft/gsm8k_train_2000.jsonl"


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """Answers to be generated.

    Attributes:
        prompts: Token ids of each stream's prompt.
        new_tokens: Of each answer.
    """

    prompts: list[list[int]]
    new_tokens: int

    @classmethod
    def of(cls, texts: list[str]) -> Work:
        """The work in what a contestant was given."""
        return cls(**json.loads(texts[0]))

    def text(self) -> str:
        """The work as a contestant is given it."""
        return json.dumps(dataclasses.asdict(self))

    @property
    def generated(self) -> int:
        """Tokens of all answers."""
        return len(self.prompts) * self.new_tokens


def gguf_file() -> Path:
    """The bundled model, as llama.cpp reads it."""
    settings = load_settings()
    return locate(Catalog(settings.models)[MODEL], settings.state_dir / "models")


def folder_of(file: Path) -> Path:
    """The same model as a Hugging Face folder, for transformers."""
    from native_ops.gguf_conversion import converted_folder

    return converted_folder(file, models_dir())


def models_dir() -> Path:
    """Where fetched and converted models are kept."""
    return load_settings().state_dir / "models"


def prompts(data: Path, folder: Path, count: int, length: int, seed: int = 0) -> list[list[int]]:
    """`count` prompts of exactly `length` tokens, from texts that differ from the first word on.

    Raises:
        BenchmarkError: the data is missing, or too short.
    """
    from tokenizers import Tokenizer

    try:
        lines = (data / _PROBLEMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise BenchmarkError(
            f"{data / _PROBLEMS} is absent; `ironcliw bench fetch-data` gets it"
        ) from None
    rows = [json.loads(line) for line in lines]
    texts = [f"{row['question']} {row['answer']}" for row in rows]
    order = np.random.default_rng(seed).permutation(len(texts))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pieces = iter(order.tolist())
    found: list[list[int]] = []
    while len(found) < count:
        ids: list[int] = []
        while len(ids) < length:
            piece = next(pieces, None)
            if piece is None:
                raise BenchmarkError(f"{data / _PROBLEMS} has no {count} prompts of {length}")
            ids += tokenizer.encode(texts[piece], add_special_tokens=False).ids
        found.append(ids[:length])
    return found


def build(file: Path, threads: int) -> Embed:
    """Our engine in the form that it chooses for this machine."""
    from serve.engines.decoders.load import LoadOptions, load_gguf

    use_cpu_capability(load_settings().cpu_capability)
    options = LoadOptions(threads=threads, slots=STREAMS)
    return _contestant(load_gguf(file, models_dir(), options))


def build_llamacpp(file: Path, threads: int) -> Embed:
    """Our scheduler over llama.cpp, on the GGUF file itself."""
    from serve.engines.decoders.llamacpp import LlamaCppDecoder

    return _contestant(LlamaCppDecoder(file, slots=STREAMS, threads=threads))


def _contestant(decoder: Decoder) -> Embed:
    loop = asyncio.new_event_loop()
    runner = GenerationRunner(decoder, ThreadPoolExecutor(1))

    def generate(texts: list[str]) -> Any:
        work = Work.of(texts)
        if len(work.prompts) == STALLED_STREAMS + 1 and len(work.prompts[-1]) > len(
            work.prompts[0]
        ):
            return loop.run_until_complete(stall(runner, work))
        return loop.run_until_complete(answers(runner, work))

    return generate


async def answers(runner: GenerationRunner, work: Work) -> list[float]:
    """Every answer; the seconds to the first token of each."""
    return await asyncio.gather(
        *(_answer(runner, prompt, work.new_tokens) for prompt in work.prompts)
    )


async def _answer(runner: GenerationRunner, prompt: Sequence[int], new_tokens: int) -> float:
    started = time.perf_counter()
    first, drawn = 0.0, 0
    async for delta in runner.generate(_job(prompt, new_tokens)):
        first = first or time.perf_counter() - started
        drawn += len(delta.tokens)
    if drawn != new_tokens:
        raise BenchmarkError(f"{drawn} tokens were generated instead of {new_tokens}")
    return first


def _job(prompt: Sequence[int], new_tokens: int) -> GenerationJob:
    return GenerationJob(np.asarray(prompt, np.int32), new_tokens, Sampling(temperature=0))


async def stall(runner: GenerationRunner, work: Work) -> list[float]:
    """How long running streams wait while the last, long prompt is read.

    Returns:
        Longest wait as a multiple of the median token time; that median and that wait in
        milliseconds; milliseconds to the long prompt's first token.
    """
    *short, long = work.prompts
    times: list[list[float]] = [[] for _ in short]
    settled = asyncio.Event()

    async def run(number: int) -> None:
        async for _ in runner.generate(_job(short[number], work.new_tokens)):
            times[number].append(time.perf_counter())
            if min(len(stream) for stream in times) >= _SETTLED_TOKENS:
                settled.set()

    streams = [asyncio.create_task(run(number)) for number in range(len(short))]
    await settled.wait()
    began = time.perf_counter()
    first = await _answer(runner, long, 1)
    for stream in streams:
        stream.cancel()
    await asyncio.wait(streams)
    return waits(times, began, began + first, first)


def waits(times: list[list[float]], began: float, ended: float, first: float) -> list[float]:
    """The figures of `stall` from each stream's token times.

    Args:
        times: Seconds at which each stream's tokens came.
        began: When the long prompt was submitted.
        ended: When its first token came.
        first: Seconds between them.
    """
    before = [
        later - earlier for stream in times for earlier, later in pairwise(stream) if later <= began
    ]
    during = [
        later - earlier
        for stream in times
        for earlier, later in pairwise([*stream, ended])
        if later > began and earlier < ended
    ]
    usual, longest = float(np.median(before)), max(during)
    return [longest / usual, 1e3 * usual, 1e3 * longest, 1e3 * first]
