"""Adapters where they are served: the rate of a batch of which each row has one, and how soon after
its training an adapter answers.

The first is measured in this process, by our engine as the service runs it: 16 streams, all of the
base, or divided among 1, 4 or 16 adapters. The second goes over HTTP to a server that was there
before, and counts from the last optimizer step to the first token.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch

from benchmarks import generation_work
from benchmarks.generation_http import first_token
from benchmarks.generation_work import MODEL, prompts
from benchmarks.harness import BenchmarkError, Goal, Options, Row, Samples, interleave
from benchmarks.peers.plain_training import lora_config
from benchmarks.servers import start_ours
from benchmarks.training_work import Work
from ironcliw.settings import Settings, load_settings
from serve.engines.decoders.load import LoadOptions, load_gguf
from serve.generation.protocol import GenerationJob, LoadedAdapter, Sampling
from serve.generation.runner import GenerationRunner
from serve.host import use_cpu_capability
from train.job import Job
from train.publish import publish_run
from train.run_files import CONFIG, RunFiles
from train.worker import work as attempt

logger = logging.getLogger(__name__)

THEME = "train"
STREAMS = 16
RATE_GOALS = {1: 0.9, 4: 0.75, 16: 0.6}
FIRST_TOKEN_GOAL = Goal(10.0, at_most=True)
_PROMPT = 16
_NAME = "benchmark"
_POLL_SECONDS = 0.1
_LOAD_SECONDS = 180.0


def run(options: Options, work: Work) -> tuple[list[Row], list[str]]:
    """Both.

    Args:
        options: Of the theme.
        work: A short training run; its adapter is the one that is to answer.

    Raises:
        BenchmarkError: data is missing, or the server does not answer.
    """
    rounds = options.rounds or (3 if options.quick else 7)
    new_tokens = 32 if options.quick else 96
    file = generation_work.gguf_file()
    texts = prompts(options.data, generation_work.folder_of(file), STREAMS, _PROMPT, options.seed)
    logger.info("%d streams under adapters, %d rounds", STREAMS, rounds)
    rates = measure_rates(Path(work.model), file, texts, new_tokens, options.threads, rounds)
    logger.info("from the end of a training run to its adapter's first token")
    seconds = [training_to_token(options, work, texts[0]) for _ in range(1 if options.quick else 3)]
    remark = (
        f"Adapters: LoRA r=16 on all linear layers, random; {STREAMS} streams of {new_tokens} "
        f"tokens after prompts of {_PROMPT}, {rounds} rounds in alternation. To the first token: "
        "nothing is held out and the adapter is published all the same; the base is loaded."
    )
    return build_rows(rates, seconds), [remark]


def build_rows(rates: Mapping[int, Sequence[float]], seconds: Sequence[float]) -> list[Row]:
    """The rows.

    Args:
        rates: Tokens a second of each round, by the number of adapters; 0 is the base.
        seconds: From the last step of a run to the first token, of each run.
    """
    base = Samples.of(rates[0])
    rows = [
        Row(
            THEME,
            f"{STREAMS} streams under {count} adapter{'s' if count > 1 else ''}",
            "tokens/s",
            Samples.of(rates[count]),
            {"the base": base},
            Goal(bound, relative=True),
        )
        for count, bound in RATE_GOALS.items()
    ]
    last = "last training step to the first token of its adapter"
    return [*rows, Row(THEME, last, "s", Samples.of(seconds), goal=FIRST_TOKEN_GOAL)]


def measure_rates(
    model: Path, file: Path, texts: list[list[int]], new_tokens: int, threads: int, rounds: int
) -> dict[int, list[float]]:
    """Tokens a second of each round, by the number of adapters.

    Args:
        model: The base as a Hugging Face folder.
        file: The same as GGUF.
        texts: A prompt for each stream.
        new_tokens: Of each answer.
        threads: Compute threads.
        rounds: At least 1.
    """
    use_cpu_capability(load_settings().cpu_capability)
    decoder = load_gguf(
        file, generation_work.models_dir(), LoadOptions(threads=threads, slots=STREAMS)
    )
    with tempfile.TemporaryDirectory(prefix="benchmark-adapters-") as folder:
        folders = make_adapters(model, Path(folder), max(RATE_GOALS))
        with ThreadPoolExecutor(1, thread_name_prefix="compute") as executor:
            runner = GenerationRunner(decoder, executor)
            loaded = [runner.read_adapter(each) for each in folders]
            one = partial(_rate, runner, texts, new_tokens)
            contestants = {count: partial(one, loaded[:count]) for count in (0, *RATE_GOALS)}
            for each in contestants.values():
                each()  # not counted
            found = interleave(contestants, rounds)
            runner.close()
    return found


def make_adapters(model: Path, folder: Path, count: int) -> list[Path]:
    """Adapters of small random weights, in peft's format.

    Args:
        model: The base as a Hugging Face folder.
        folder: Where to.
        count: How many.
    """
    import transformers

    loader: Any = transformers.AutoModelForCausalLM
    adapted = peft.get_peft_model(loader.from_pretrained(model, dtype=torch.float32), lora_config())
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        with torch.no_grad():
            for each in adapted.parameters():
                if each.requires_grad:
                    each.normal_(0.0, 0.01, generator=generator)
        made.append(folder / str(number))
        adapted.save_pretrained(str(made[-1]), safe_serialization=True)
    return made


def _rate(
    runner: GenerationRunner,
    texts: list[list[int]],
    new_tokens: int,
    adapters: Sequence[LoadedAdapter],
) -> float:
    async def answer(number: int) -> int:
        adapter = adapters[number % len(adapters)] if adapters else None
        asked = np.asarray(texts[number], np.int32)
        job = GenerationJob(asked, new_tokens, Sampling(temperature=0), loaded=adapter)
        return sum([len(delta.tokens) async for delta in runner.generate(job)])

    async def answers() -> list[int]:
        return await asyncio.gather(*(answer(number) for number in range(len(texts))))

    begun = time.perf_counter()
    drawn = sum(asyncio.run(answers()))
    seconds = time.perf_counter() - begun
    if drawn != len(texts) * new_tokens:
        raise BenchmarkError(f"{drawn} tokens were generated, not {len(texts) * new_tokens}")
    return drawn / seconds


def training_to_token(options: Options, work: Work, prompt: list[int]) -> float:
    """Seconds from a run's last optimizer step to the first token under its adapter.

    Raises:
        BenchmarkError: the server does not answer.
    """
    with ExitStack() as stack:
        # short, since Ray puts socket paths below it
        folder = Path(tempfile.mkdtemp(prefix="ib-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = stack.enter_context(start_ours(options, folder))
        server.wait_ready()
        url = server.url.replace("/embeddings", "/completions")
        first_token(url, prompt, _LOAD_SECONDS)
        settings = Settings(state_dir=folder / "state")
        ended = train(work, settings, str(folder / "run"))
        publish_run(str(folder / "run"), _NAME, settings, force=True)
        while time.monotonic() - ended < _LOAD_SECONDS:
            try:
                first_token(url, prompt, model=f"{MODEL}:{_NAME}")
                return time.monotonic() - ended
            except BenchmarkError as error:
                # until the service has seen it, the name is not known
                if " 404: " not in str(error):
                    raise
                time.sleep(_POLL_SECONDS)
    raise BenchmarkError(f"the adapter was not served within {_LOAD_SECONDS:.0f} s")


def train(work: Work, settings: Settings, uri: str) -> float:
    """A whole run of one worker; returns when its last optimizer step was done."""
    # an adapter is published for a model of the catalogue
    config = work.config().model_copy(update={"model_name": MODEL})
    RunFiles(uri).write(CONFIG, {"config": config.model_dump(mode="json"), "numbers": {}})
    ends: list[float] = []
    job = Job(config, settings, uri, work.data(), None, work.threads)
    attempt(job, report=lambda _: ends.append(time.monotonic()))
    if len(ends) != work.steps:
        raise BenchmarkError(f"{len(ends)} of {work.steps} steps were done")
    return ends[-1]
