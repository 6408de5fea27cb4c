"""vLLM as a `Generator`: it schedules and samples by itself, on a GPU (extra `cuda`, Linux).

Written against vLLM 0.32 (vllm/v1/engine/async_llm.py, vllm/sampling_params.py). What differs from
our own engines: draws follow vLLM's random numbers, so a seed gives other text than elsewhere, and
a job that is resumed with `generated` goes on with other draws; presence and frequency penalties
count from where it was resumed.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from ironcliw.errors import (
    ContextLengthError,
    IroncliwError,
    ModelLoadError,
    OverloadedError,
    RequestError,
    UnavailableError,
    UnsupportedError,
)
from serve.generation.protocol import Delta, Finish, GenerationJob, GeneratorStats, TokenDraw

logger = logging.getLogger(__name__)

_MOST_LOGPROBS = 20
"""What the API allows (`top_logprobs`)."""
_MOST_SCORED = 128
"""vllm.sampling_params.MAX_LOGPROB_TOKEN_IDS."""
_SEED_MASK = 2**63 - 1  # -1 would mean "no seed" to vLLM
_RETRY_SECONDS = 1.0

_FINISHES = (None, "stop", "length")

_Item = Delta | IroncliwError


class VllmGenerator:
    """A model on vLLM's `AsyncLLM`.

    Args:
        path: A Hugging Face folder.
        slots: Jobs that run at once.
        max_waiting: Jobs that may wait for one.
        kv_bytes: Bytes of the KV cache; None: what vLLM finds free.
        context: Most tokens of prompt and answer; None: what the model says.
        precision: `auto`, `float32`, `bfloat16` or `float16`.
        quantization: None or `4bit` (bitsandbytes, when loading).

    Raises:
        UnsupportedError: vLLM is not installed.
        ModelLoadError: it cannot load the model.
    """

    def __init__(
        self,
        path: Path,
        *,
        slots: int = 8,
        max_waiting: int = 256,
        kv_bytes: int | None = None,
        context: int | None = None,
        precision: str = "auto",
        quantization: str | None = None,
    ) -> None:
        self._vllm = _Package()
        self._engine = _start(
            self._vllm,
            model=str(path),
            # token ids in, token ids out; no code and no sampling defaults from the folder
            skip_tokenizer_init=True,
            trust_remote_code=False,
            generation_config="vllm",
            dtype=precision,
            quantization=_quantization(quantization),
            max_model_len=context,
            max_num_seqs=slots,
            kv_cache_memory_bytes=kv_bytes,
            max_logprobs=_MOST_LOGPROBS,
            logprobs_mode="raw_logprobs",
            scheduling_policy="priority",
            disable_log_stats=True,
            enable_log_requests=False,
        )
        configuration = self._engine.model_config
        self.context = int(configuration.max_model_len)
        self.device = str(self._engine.vllm_config.device_config.device_type)
        self.precision = quantization or str(configuration.dtype).removeprefix("torch.")
        self.kv_bytes = kv_bytes or 0
        self.resident_bytes = _folder_bytes(path) + self.kv_bytes
        self._vocabulary = int(configuration.get_vocab_size())
        self._slots, self._max_waiting = slots, max_waiting
        self._numbers = itertools.count()
        self._jobs: dict[str, asyncio.Queue[_Item]] = {}
        self._ranked, self._scored = 0, 0
        self._alone = asyncio.Condition()
        self._counts = {"prompt": 0, "generated": 0, "steps": 0}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = threading.Event()

    async def generate(self, job: GenerationJob) -> AsyncGenerator[Delta, None]:
        """The answer as it grows. See `Generator.generate`."""
        self._admit(job)
        self._loop = asyncio.get_running_loop()
        name = f"job-{next(self._numbers)}"
        queue: asyncio.Queue[_Item] = asyncio.Queue()
        self._jobs[name] = queue
        work = self._score(name, job) if job.score_tokens else self._answer(name, job)
        # a task of its own, so that close() can end a job whose reader waits for vLLM
        task = asyncio.create_task(self._pump(work, queue))
        try:
            while True:
                item = await queue.get()
                if isinstance(item, IroncliwError):
                    raise item
                yield item
                if item.finish is not None or item.scores is not None:
                    return
        finally:
            del self._jobs[name]
            # cancelled inside AsyncLLM.generate, it aborts the request
            task.cancel()
            await asyncio.wait([task])

    def stats(self) -> GeneratorStats:
        """What passed through here; vLLM keeps its steps and its cache to itself."""
        running = min(len(self._jobs), self._slots)
        return GeneratorStats(
            running=running,
            waiting=len(self._jobs) - running,
            prompt_tokens=self._counts["prompt"],
            generated_tokens=self._counts["generated"],
        )

    def close(self) -> None:
        """End every job with UnavailableError and stop vLLM's process. Thread-safe."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end_all)
        self._engine.shutdown()

    def _end_all(self) -> None:
        for queue in self._jobs.values():
            queue.put_nowait(_closed())

    def _admit(self, job: GenerationJob) -> None:
        if self._closed.is_set():
            raise _closed()
        given = len(job.prompt) + len(job.generated)
        if given == 0:
            raise RequestError("the prompt has no tokens; send at least one")
        # scoring draws one token, too
        if given >= self.context:
            raise ContextLengthError(
                f"the prompt has {given} tokens and this model's context {self.context}, which "
                "leaves no room for an answer; shorten the prompt"
            )
        if len(self._jobs) >= self._slots + self._max_waiting:
            raise OverloadedError(
                f"{self._max_waiting} generations wait for this model already; try again later, or "
                "raise serve.max_waiting_jobs",
                retry_after=_RETRY_SECONDS,
            )
        for tokens in (job.prompt, job.generated):
            bad = tokens[(tokens < 0) | (tokens >= self._vocabulary)]
            if len(bad):
                raise RequestError(
                    f"token id {bad[0]} is outside this model's vocabulary, 0 to "
                    f"{self._vocabulary - 1}"
                )

    async def _pump(self, work: AsyncIterator[Delta], queue: asyncio.Queue[_Item]) -> None:
        """Move a job's deltas to its queue; vLLM's errors become ours."""
        try:
            async for delta in work:
                queue.put_nowait(delta)
        except self._vllm.client_error as error:
            queue.put_nowait(RequestError(f"vLLM refused the request: {error}"))
        except self._vllm.server_error as error:
            logger.error("vLLM failed: %s", error)
            queue.put_nowait(UnavailableError(f"vLLM failed: {error}; the model must be reloaded"))
        except IroncliwError as error:
            queue.put_nowait(error)

    async def _answer(self, name: str, job: GenerationJob) -> AsyncIterator[Delta]:
        if len(job.generated) >= job.max_tokens:
            yield Delta(finish="length")
            return
        ranked = bool(job.sampling.logprobs)
        async with self._alone:
            await self._alone.wait_for(lambda: not (ranked and self._scored))
            self._ranked += ranked
        try:
            async for output in self._run(name, job, self._parameters(job)):
                delta = _delta(output.outputs[0], job.sampling.logprobs)
                self._counts["generated"] += len(delta.tokens)
                yield delta
        finally:
            await self._leave(ranked=ranked)

    async def _score(self, name: str, job: GenerationJob) -> AsyncIterator[Delta]:
        """One step, or one for each 128 tokens.

        vLLM's sampler answers a step that has any `logprob_token_ids` with these alone (0.32,
        v1/sample/sampler.py): the likeliest tokens of other jobs would be lost, so the two kinds
        do not run together.
        """
        async with self._alone:
            await self._alone.wait_for(lambda: not self._ranked)
            self._scored += 1
        scores: list[float] = []
        try:
            for start in range(0, len(job.score_tokens), _MOST_SCORED):
                wanted = list(job.score_tokens[start : start + _MOST_SCORED])
                found: Mapping[int, Any] = {}
                async for output in self._run(f"{name}-{start}", job, self._scoring(wanted)):
                    found = (output.outputs[0].logprobs or [found])[0]
                scores += [float(found[token].logprob) for token in wanted]
        finally:
            await self._leave(ranked=False, scored=True)
        yield Delta(scores=tuple(scores))

    async def _leave(self, *, ranked: bool = False, scored: bool = False) -> None:
        async with self._alone:
            self._ranked -= ranked
            self._scored -= scored
            self._alone.notify_all()

    def _run(self, name: str, job: GenerationJob, parameters: Any) -> AsyncIterator[Any]:
        prompt = [*job.prompt.tolist(), *job.generated.tolist()]
        self._counts["prompt"] += len(prompt)
        answer: AsyncIterator[Any] = self._engine.generate(
            {"prompt_token_ids": prompt}, parameters, name, priority=job.priority
        )
        return answer

    def _parameters(self, job: GenerationJob) -> Any:
        """Our sampling in vLLM's words."""
        sampling = job.sampling
        return self._vllm.parameters(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            logit_bias=dict(sampling.logit_bias) or None,
            seed=(sampling.seed + job.index) & _SEED_MASK,
            logprobs=sampling.logprobs,
            max_tokens=job.max_tokens - len(job.generated),
            stop_token_ids=sorted(job.stop_tokens),
            # the job's stop tokens are all of them
            ignore_eos=True,
            detokenize=False,
            output_kind=self._vllm.delta,
        )

    def _scoring(self, tokens: list[int]) -> Any:
        return self._vllm.parameters(
            temperature=0.0,
            max_tokens=1,
            logprob_token_ids=tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=self._vllm.delta,
        )


class _Package:
    """What we use of vLLM, imported when it is needed.

    Raises:
        UnsupportedError: it is not installed.
    """

    def __init__(self) -> None:
        try:
            parameters = importlib.import_module("vllm.sampling_params")
            exceptions = importlib.import_module("vllm.exceptions")
            arguments = importlib.import_module("vllm.engine.arg_utils")
            engine = importlib.import_module("vllm.v1.engine.async_llm")
        except ModuleNotFoundError as error:
            raise UnsupportedError(
                f"the engine vllm needs the package {error.name}; `pip install 'ironcliw[cuda]'` "
                "on a Linux machine with a GPU, or use another serve.generation_engine"
            ) from error
        self.parameters: Any = parameters.SamplingParams
        self.delta: Any = parameters.RequestOutputKind.DELTA
        self.client_error: type[Exception] = exceptions.VLLMClientError
        self.server_error: type[Exception] = exceptions.VLLMServerError
        self.arguments: Any = arguments.AsyncEngineArgs
        self.engine: Any = engine.AsyncLLM


def _start(vllm: _Package, **arguments: Any) -> Any:
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        return vllm.engine.from_engine_args(vllm.arguments(**given))
    # whatever vLLM's start raises (pydantic's errors, its own, CUDA's) is one of these
    except (ValueError, RuntimeError, OSError) as error:
        raise ModelLoadError(f"vLLM cannot load {given['model']}: {error}") from error


def _quantization(name: str | None) -> str | None:
    if name in {None, "4bit"}:
        return "bitsandbytes" if name else None
    raise ModelLoadError(
        f"vLLM quantises to 4bit when it loads, not to {name!r}; leave models.<id>.quantization "
        "unset, or use a checkpoint that is quantised already"
    )


def _delta(output: Any, count: int | None) -> Delta:
    """One of vLLM's outputs of a request as a delta."""
    if output.finish_reason not in _FINISHES:
        raise UnavailableError(f"vLLM ended the answer with {output.finish_reason!r}; retry")
    finish: Finish | None = output.finish_reason
    tokens = list(output.token_ids)
    if finish == "stop" and tokens:
        tokens.pop()  # the stop token, which is no part of the answer
    if count is None:
        return Delta(tuple(TokenDraw(token) for token in tokens), finish)
    rows = list(output.logprobs or ())[: len(tokens)]
    draws = (_draw(token, row, count) for token, row in zip(tokens, rows, strict=True))
    return Delta(tuple(draws), finish)


def _draw(token: int, row: Mapping[int, Any], count: int) -> TokenDraw:
    # the token drawn is among them whatever its rank
    ranked = sorted(row.items(), key=lambda item: -item[1].logprob)
    top = tuple((int(other), float(found.logprob)) for other, found in ranked[:count])
    return TokenDraw(token, float(row[token].logprob), top)


def _folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def _closed() -> UnavailableError:
    return UnavailableError("the model was closed; retry")
