"""`VllmGenerator` against a stand-in for vLLM 0.32 with the names and the behaviour of its source.

The contract suite (tests/contract/test_generators.py) runs against vLLM itself where it is there.
"""

from __future__ import annotations

import asyncio
import enum
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from ironcliw.errors import (
    ContextLengthError,
    ModelLoadError,
    OverloadedError,
    RequestError,
    UnavailableError,
    UnsupportedError,
)
from serve.engines.vllm_generator import VllmGenerator
from serve.generation.protocol import Delta, GenerationJob, Sampling
from tests.waiting import until

VOCABULARY, CONTEXT = 100, 32


class VLLMError(Exception):
    pass


class VLLMClientError(VLLMError):
    pass


class VLLMServerError(VLLMError):
    pass


class RequestOutputKind(enum.Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


class SamplingParams:
    """The fields of vllm.sampling_params.SamplingParams that are used, and its checks."""

    def __init__(
        self,
        *,
        n: int = 1,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float = 1.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        stop_token_ids: list[int] | None = None,
        ignore_eos: bool = False,
        max_tokens: int | None = 16,
        logprobs: int | None = None,
        logprob_token_ids: list[int] | None = None,
        detokenize: bool = True,
        output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE,
        logit_bias: dict[int, float] | None = None,
    ) -> None:
        vars(self).update({key: value for key, value in locals().items() if key != "self"})
        assert max_tokens is None or max_tokens >= 1
        assert logprob_token_ids is None or len(logprob_token_ids) <= 128
        assert seed != -1


class AsyncEngineArgs:
    """The fields of vllm.engine.arg_utils.AsyncEngineArgs that are used."""

    def __init__(
        self,
        *,
        model: str,
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        generation_config: str = "auto",
        dtype: str = "auto",
        quantization: str | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        kv_cache_memory_bytes: int | None = None,
        max_logprobs: int = 20,
        logprobs_mode: str = "raw_logprobs",
        scheduling_policy: str = "fcfs",
        disable_log_stats: bool = False,
        enable_log_requests: bool = False,
    ) -> None:
        vars(self).update({key: value for key, value in locals().items() if key != "self"})


class AsyncLLM:
    """Draws the last token's successor; what it was asked is kept."""

    made: ClassVar[list[AsyncLLM]] = []

    def __init__(self, arguments: Any) -> None:
        self.arguments = arguments
        self.model_config = SimpleNamespace(
            max_model_len=arguments.max_model_len or CONTEXT,
            dtype="torch.bfloat16",
            get_vocab_size=lambda: VOCABULARY,
        )
        self.vllm_config = SimpleNamespace(device_config=SimpleNamespace(device_type="cuda"))
        self.requests: list[tuple[Any, Any, str, int]] = []
        self.running: set[str] = set()
        self.aborted: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails: Exception | None = None
        self.ends: str | None = None
        self.stopped = False
        AsyncLLM.made.append(self)

    @classmethod
    def from_engine_args(cls, engine_args: AsyncEngineArgs) -> AsyncLLM:
        if vars(engine_args)["model"].endswith("broken"):
            raise ValueError("no such model")
        return cls(engine_args)

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, *, priority: int = 0
    ) -> AsyncIterator[Any]:
        self.requests.append((prompt, sampling_params, request_id, priority))
        self.running.add(request_id)
        try:
            if self.fails:
                raise self.fails
            async for output in self._outputs(prompt["prompt_token_ids"], sampling_params):
                yield output
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise
        finally:
            self.running.discard(request_id)

    async def _outputs(self, tokens: list[int], parameters: Any) -> AsyncIterator[Any]:
        for number in range(parameters.max_tokens):
            await self.gate.wait()
            await asyncio.sleep(0)
            token = (tokens[-1] + 1 + number) % VOCABULARY
            full = len(tokens) + number + 1 >= self.model_config.max_model_len
            finish = "stop" if token in (parameters.stop_token_ids or ()) else None
            if finish is None and (full or number == parameters.max_tokens - 1):
                finish = "length"
            finish = self.ends or finish
            output = SimpleNamespace(
                token_ids=[token], finish_reason=finish, logprobs=_logprobs(token, parameters)
            )
            yield SimpleNamespace(outputs=[output], finished=finish is not None)
            if finish:
                return

    def shutdown(self) -> None:
        self.stopped = True


def _logprobs(token: int, parameters: Any) -> list[dict[int, Any]] | None:
    if parameters.logprob_token_ids is not None:
        ids = [token, *parameters.logprob_token_ids]
    elif parameters.logprobs is not None:
        ids = [token, *(n for n in range(parameters.logprobs + 1) if n != token)]
        ids = ids[: max(parameters.logprobs, 1)]
    else:
        return None
    return [{n: SimpleNamespace(logprob=-0.5 - 0.01 * n, rank=n + 1) for n in ids}]


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    parts: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.sampling_params": {
            "SamplingParams": SamplingParams,
            "RequestOutputKind": RequestOutputKind,
        },
        "vllm.exceptions": {
            "VLLMClientError": VLLMClientError,
            "VLLMServerError": VLLMServerError,
        },
        "vllm.engine": {},
        "vllm.engine.arg_utils": {"AsyncEngineArgs": AsyncEngineArgs},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.async_llm": {"AsyncLLM": AsyncLLM},
    }
    for name, values in parts.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    yield
    AsyncLLM.made.clear()


def make(**changes: Any) -> tuple[VllmGenerator, AsyncLLM]:
    generator = VllmGenerator(Path("/models/some"), **changes)
    return generator, AsyncLLM.made[-1]


def job(**changes: Any) -> GenerationJob:
    values = {"prompt": np.array([5, 6, 7], np.int32), "max_tokens": 4, **changes}
    return GenerationJob(**values)


async def answer(generator: VllmGenerator, job: GenerationJob) -> list[Delta]:
    return [delta async for delta in generator.generate(job)]


def ids(deltas: list[Delta]) -> list[int]:
    return [draw.id for delta in deltas for draw in delta.tokens]


async def test_an_answer_token_by_token() -> None:
    generator, _ = make()
    deltas = await answer(generator, job())
    assert ids(deltas) == [8, 9, 10, 11]
    assert [delta.finish for delta in deltas] == [None, None, None, "length"]
    assert generator.stats().generated_tokens == 4
    assert generator.stats().prompt_tokens == 3


def test_the_engine_gets_no_code_tokenizer_or_defaults_from_the_folder() -> None:
    generator, engine = make(slots=3, kv_bytes=2**20, context=16, quantization="4bit")
    asked = vars(engine.arguments)
    assert asked["model"] == "/models/some"
    assert asked["skip_tokenizer_init"] is True
    assert asked["trust_remote_code"] is False
    assert asked["generation_config"] == "vllm"
    assert asked["scheduling_policy"] == "priority"
    assert asked["quantization"] == "bitsandbytes"
    assert (asked["max_num_seqs"], asked["max_model_len"]) == (3, 16)
    assert asked["kv_cache_memory_bytes"] == 2**20
    assert (generator.context, generator.device, generator.precision) == (16, "cuda", "4bit")


async def test_sampling_in_vllms_words() -> None:
    generator, engine = make()
    sampling = Sampling(
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        repetition_penalty=1.1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias=((3, 2.0),),
        seed=-3,
    )
    await answer(
        generator,
        job(sampling=sampling, index=2, stop_tokens=frozenset({60, 50}), priority=1),
    )
    prompt, asked, _, priority = engine.requests[0]
    assert prompt == {"prompt_token_ids": [5, 6, 7]}
    assert priority == 1
    assert (asked.temperature, asked.top_p, asked.top_k) == (0.7, 0.9, 40)
    assert (asked.repetition_penalty, asked.presence_penalty) == (1.1, 0.5)
    assert asked.frequency_penalty == -0.5
    assert asked.logit_bias == {3: 2.0}
    assert asked.seed == 2**63 - 1  # -3 + 2 is -1, which vLLM would take for "no seed"
    assert asked.stop_token_ids == [50, 60]
    assert asked.output_kind is RequestOutputKind.DELTA
    assert (asked.ignore_eos, asked.detokenize, asked.n) == (True, False, 1)


async def test_the_stop_token_is_no_part_of_the_answer() -> None:
    generator, _ = make()
    deltas = await answer(generator, job(stop_tokens=frozenset({10})))
    assert ids(deltas) == [8, 9]
    assert deltas[-1].finish == "stop"


async def test_log_probabilities_likeliest_first() -> None:
    generator, _ = make()
    deltas = await answer(generator, job(max_tokens=1, sampling=Sampling(logprobs=2)))
    draw = deltas[0].tokens[0]
    assert draw.logprob == pytest.approx(-0.58)
    assert [token for token, _ in draw.top] == [0, 8]


async def test_a_resumed_answer_reads_what_was_sent() -> None:
    generator, engine = make()
    given = np.array([8, 9], np.int32)
    deltas = await answer(generator, job(generated=given))
    assert engine.requests[0][0] == {"prompt_token_ids": [5, 6, 7, 8, 9]}
    assert ids(deltas) == [10, 11]


async def test_a_resumed_answer_that_was_complete_only_ends() -> None:
    generator, engine = make()
    deltas = await answer(generator, job(max_tokens=2, generated=np.array([8, 9], np.int32)))
    assert deltas == [Delta(finish="length")]
    assert engine.requests == []


async def test_scores_in_order_and_in_parts_of_128() -> None:
    generator, engine = make(context=16)
    wanted = tuple(range(99, -1, -1)) * 2
    deltas = await answer(generator, job(score_tokens=wanted))
    assert [len(asked.logprob_token_ids) for _, asked, _, _ in engine.requests] == [128, 72]
    assert len({name for _, _, name, _ in engine.requests}) == 2
    assert deltas[0].scores == pytest.approx([-0.5 - 0.01 * token for token in wanted])


async def test_scoring_waits_for_ranked_answers_and_they_for_it() -> None:
    generator, engine = make()
    engine.gate.clear()
    ranked = asyncio.create_task(answer(generator, job(sampling=Sampling(logprobs=2))))
    await until(lambda: len(engine.running) == 1)
    scored = asyncio.create_task(answer(generator, job(score_tokens=(1, 2))))
    plain = asyncio.create_task(answer(generator, job()))
    await until(lambda: len(engine.running) == 2)
    assert all(asked.logprob_token_ids is None for _, asked, _, _ in engine.requests)
    engine.gate.set()
    assert (await scored)[0].scores is not None
    assert len(ids(await ranked)) == len(ids(await plain)) == 4


async def test_leaving_early_aborts_the_request() -> None:
    generator, engine = make()
    async with aclosing(generator.generate(job(max_tokens=20))) as deltas:
        await anext(deltas)
        engine.gate.clear()
        await until(lambda: bool(engine.running))
    assert engine.aborted == [engine.requests[0][2]]
    assert generator.stats().running == 0


async def test_closing_ends_jobs_that_wait_for_vllm() -> None:
    generator, engine = make()
    engine.gate.clear()
    reader = asyncio.create_task(answer(generator, job()))
    await until(lambda: bool(engine.running))
    await asyncio.get_running_loop().run_in_executor(None, generator.close)
    with pytest.raises(UnavailableError, match="closed"):
        await reader
    assert engine.stopped
    with pytest.raises(UnavailableError, match="closed"):
        await answer(generator, job())
    generator.close()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(VLLMClientError("bad"), RequestError), (VLLMServerError("dead"), UnavailableError)],
)
async def test_vllms_errors_become_ours(raised: Exception, expected: type[Exception]) -> None:
    generator, engine = make()
    engine.fails = raised
    with pytest.raises(expected, match=str(raised)):
        await answer(generator, job())
    assert generator.stats().running == 0


async def test_an_answer_that_vllm_aborted_is_an_error() -> None:
    generator, engine = make()
    engine.ends = "abort"
    with pytest.raises(UnavailableError, match="abort"):
        await answer(generator, job())


async def test_what_cannot_be_read_is_refused_before_vllm_sees_it() -> None:
    generator, engine = make()
    with pytest.raises(RequestError, match="no tokens"):
        await answer(generator, job(prompt=np.empty(0, np.int32)))
    with pytest.raises(ContextLengthError, match="32"):
        await answer(generator, job(prompt=np.zeros(CONTEXT, np.int32)))
    with pytest.raises(RequestError, match=r"token id 100 .* 0 to 99"):
        await answer(generator, job(prompt=np.array([100], np.int32)))
    assert engine.requests == []


async def test_too_many_waiting_jobs_are_refused() -> None:
    generator, engine = make(slots=1, max_waiting=1)
    engine.gate.clear()
    readers = [asyncio.create_task(answer(generator, job())) for _ in range(2)]
    await until(lambda: len(engine.running) == 2)
    assert (generator.stats().running, generator.stats().waiting) == (1, 1)
    with pytest.raises(OverloadedError, match="max_waiting_jobs"):
        await answer(generator, job())
    engine.gate.set()
    await asyncio.gather(*readers)


def test_a_model_that_vllm_cannot_load() -> None:
    with pytest.raises(ModelLoadError, match="broken: no such model"):
        VllmGenerator(Path("/models/broken"))


def test_a_quantization_that_vllm_does_not_do() -> None:
    with pytest.raises(ModelLoadError, match="8bit"):
        make(quantization="8bit")


def test_without_vllm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", None)
    with pytest.raises(UnsupportedError, match=r"ironcliw\[cuda\]"):
        make()
