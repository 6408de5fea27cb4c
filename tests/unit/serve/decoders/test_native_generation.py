"""One seed, one text: alone, among others that come and go, and taken up by another replica."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from native_ops import binary
from serve.engines.decoders.load import LoadOptions, load_gguf
from serve.engines.decoders.native import NativeDecoder
from serve.generation.protocol import Decoder, GenerationJob, Sampling, TokenDraw
from serve.generation.runner import GenerationRunner
from serve.generation.scheduler import GenerationLimits
from tests.unit.serve.decoders.gguf_models import TOKENS, write_sample
from tests.unit.serve.decoders.small_models import make_case

OTHERS = 7


@pytest.fixture(autouse=True)
def compiled() -> None:
    assert binary.load() is not None, "the compiled kernels are absent: run `make native`"


@pytest.fixture(scope="module", params=["Q4_1", "Q8_0", "F16", "float32"])
def decoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Decoder]:
    path = tmp_path_factory.mktemp("model")
    if request.param == "float32":
        found = make_case("qwen3", path).decoder(native=True, slots=8)
    else:
        write_sample(path / "model.gguf", "llama-tied", request.param)
        found = load_gguf(path / "model.gguf", path, LoadOptions(device="cpu", slots=8))
    assert isinstance(found, NativeDecoder)
    yield found
    found.close()


def job(seed: int, length: int = 20, max_tokens: int = 40) -> GenerationJob:
    prompt = np.random.default_rng(seed).integers(3, 90, length).astype(np.int32)
    sampling = Sampling(
        temperature=1.3, top_p=0.95, top_k=60, repetition_penalty=1.1, seed=seed, logprobs=2
    )
    return GenerationJob(prompt, max_tokens, sampling)


@contextmanager
def running(decoder: Decoder) -> Iterator[GenerationRunner]:
    """Prompts are read in small chunks, so that they meet the others' single tokens."""
    limits = GenerationLimits(max_chunk_tokens=8, min_chunk_tokens=4)
    with ThreadPoolExecutor(1) as executor:
        runner = GenerationRunner(decoder, executor, limits)
        yield runner


async def answer(runner: GenerationRunner, job: GenerationJob) -> list[TokenDraw]:
    draws: list[TokenDraw] = []
    async for delta in runner.generate(job):
        draws += delta.tokens
    return draws


async def leaver(runner: GenerationRunner, seed: int) -> None:
    """A job whose reader goes after some tokens; then another comes."""
    async with aclosing(runner.generate(job(seed, 5 + 9 * seed % 50, 60))) as deltas:
        for _ in range(3 + seed):
            await anext(deltas)
    await answer(runner, job(seed + 50, 30, 12))


async def among_others(decoder: Decoder, wanted: GenerationJob) -> list[TokenDraw]:
    with running(decoder) as runner:
        others = [asyncio.create_task(leaver(runner, seed)) for seed in range(1, OTHERS + 1)]
        await asyncio.sleep(0)
        found = await answer(runner, wanted)
        await asyncio.gather(*others)
    for slot in range(decoder.slots):
        decoder.free(slot)
    return found


async def alone(decoder: Decoder, wanted: GenerationJob) -> list[TokenDraw]:
    with running(decoder) as runner:
        found = await answer(runner, wanted)
    for slot in range(decoder.slots):
        decoder.free(slot)
    return found


async def test_a_seeded_answer_is_the_same_alone_and_among_others(decoder: Decoder) -> None:
    first = await alone(decoder, job(11))
    assert len(first) == 40
    assert await among_others(decoder, job(11)) == first  # tokens and log-probabilities, to the bit


async def test_a_resumed_answer_is_the_same(decoder: Decoder) -> None:
    wanted = job(12)
    whole = await alone(decoder, wanted)
    for count in (1, 17, 39):
        taken = np.asarray([draw.id for draw in whole[:count]], np.int32)
        rest = await among_others(decoder, replace(wanted, generated=taken))
        assert rest == whole[count:]


async def test_the_number_of_threads_changes_nothing(decoder: Decoder) -> None:
    threads = torch.get_num_threads()
    texts = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        try:
            texts.append(await alone(decoder, job(13)))
        finally:
            torch.set_num_threads(threads)
    assert texts[0] == texts[1] == texts[2]
    assert len({draw.id for draw in texts[0]}) > len(TOKENS) // 20
