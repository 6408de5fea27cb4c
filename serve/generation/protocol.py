"""The two seams of generation: `Decoder` computes one step, `Generator` answers whole jobs.

    job -> Generator (schedules, samples) -> Decoder.forward(step) -> logits -> tokens -> Delta

The scheduler and the sampler stand above `Decoder`, so every decoder (ours, llama.cpp, the fake)
batches continuously in the same way; an engine that schedules by itself (vLLM) is a `Generator`.

Shapes: N tokens of a step over all its sequences, R rows of logits that are wanted, V vocabulary,
P prompt tokens, G tokens generated so far.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ironcliw.adapter_catalog import AdapterCard
from serve.engines.protocol import Tokens

Logits = npt.NDArray[np.float32]
Finish = Literal["stop", "length"]

_NO_TOKENS: Tokens = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; checked at the edge, so every value here is valid.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p: Draw from the smallest set of tokens with this probability together; 1: from all.
        top_k: Draw from the k most likely tokens; 0: from all.
        repetition_penalty: Of tokens in prompt or answer (of a sequence-to-sequence model: answer),
            as in transformers; 1: none.
        presence_penalty: Taken off the logits of tokens in the answer, as in OpenAI's API.
        frequency_penalty: The same, times how often.
        logit_bias: (token id, bias added to its logit).
        seed: A draw is a function of (seed, `GenerationJob.index`, position) alone.
        logprobs: How many of the likeliest tokens to report beside each; None: no log-probs.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """One answer to one prompt; what travels to a replica.

    Attributes:
        prompt: int32 [P]; for a sequence-to-sequence model its source text.
        max_tokens: Most tokens of the answer, those in `generated` included; at least 1.
        sampling: How to draw.
        stop_tokens: Ids that end the answer and are not part of it.
        index: Which of a request's n answers this is; part of the key of each draw.
        generated: int32 [G], the answer's tokens so far, delivered by a replica that was lost:
            they are read again like a prompt and not delivered again.
        score_tokens: Instead of an answer, the log-probabilities of these ids as the next token.
        priority: Order among waiting jobs, smaller first (`serve.batcher.Priority`).
        delta_tokens: Fewest tokens of a delta that is neither the first nor the last, for whoever
            reads the answer as a whole: each delta costs both processes half a millisecond. A
            generator may give fewer.
        adapter: What the model is under; None: nothing. It travels with the job, since a replica
            in the cloud has no register of adapters.
        loaded: The same in memory, set where the model is, and never sent.
    """

    prompt: Tokens
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_tokens: frozenset[int] = frozenset()
    index: int = 0
    generated: Tokens = field(default_factory=lambda: _NO_TOKENS)
    score_tokens: tuple[int, ...] = ()
    priority: int = 2
    delta_tokens: int = 1
    adapter: AdapterCard | None = None
    loaded: LoadedAdapter | None = None


@dataclass(frozen=True, slots=True)
class TokenDraw:
    """One token of an answer.

    Attributes:
        id: Of the token.
        logprob: Natural log of its probability before temperature and penalties, as vLLM's
            default `raw_logprobs`; None where none were asked for.
        top: (id, log-probability) of the likeliest tokens, likeliest first.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # three times as fast as what a dataclass with slots brings; there is one a token
        return TokenDraw, (self.id, self.logprob, self.top)


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step gave one job.

    Attributes:
        tokens: New tokens, often one, none where the job only ended.
        finish: `stop` (a stop token), `length` (max_tokens or the context is full), None: goes on.
        scores: float64 log-probabilities in the order of `score_tokens`, in that job's only delta.
    """

    tokens: tuple[TokenDraw, ...] = ()
    finish: Finish | None = None
    scores: tuple[float, ...] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Delta, (self.tokens, self.finish, self.scores)


@dataclass(frozen=True, slots=True)
class Step:
    """One ragged batch: several sequences, each with one token or a chunk of its prompt.

    The tokens of a slot stand together and in the order of their positions, which go on where the
    slot's sequence ended; a first position p below that forgets what the slot held from p on.

    Attributes:
        tokens: int32 [N].
        positions: int32 [N], from 0.
        slots: int32 [N], which sequence each token belongs to.
        logit_rows: int32 [R], rising: the tokens after which the next one is wanted.
        adapters: Those that rows of the step are under, each once; a sequence's tokens are all
            under one.
        row_adapters: int32 [N], which of them each token is under, -1: none; empty where there
            are none.
    """

    tokens: Tokens
    positions: Tokens
    slots: Tokens
    logit_rows: Tokens
    adapters: tuple[Any, ...] = ()
    row_adapters: Tokens = field(default_factory=lambda: _NO_TOKENS)


class Decoder(Protocol):
    """The device half of a generating model. Not thread-safe: one caller at a time."""

    @property
    def vocabulary(self) -> int:
        """V: token ids go from 0 to one less."""
        ...

    @property
    def context(self) -> int:
        """Most positions of one sequence."""
        ...

    @property
    def slots(self) -> int:
        """Sequences that can be held at once, numbered from 0."""
        ...

    @property
    def kv_tokens(self) -> int:
        """Positions that can be held at once over all slots."""
        ...

    @property
    def start_token(self) -> int | None:
        """Sequence to sequence: the decoder's first token. None: a causal model."""
        ...

    @property
    def device(self) -> str:
        """Where the weights are: `cpu`, `mps`, `cuda:0`, `metal`."""
        ...

    @property
    def precision(self) -> str:
        """Of the matrix products or the stored weights: `bfloat16`, `8bit`, `Q4_1`, ..."""
        ...

    @property
    def resident_bytes(self) -> int:
        """Bytes of weights and prepared buffers, and the most that the KV cache may grow to."""
        ...

    @property
    def kv_bytes(self) -> int:
        """The part of `resident_bytes` that the KV cache may grow to."""
        ...

    def begin(self, slot: int, source: Tokens) -> None:
        """Sequence to sequence: read the source, int32 [P], into an empty slot.

        Causal models have nothing to begin with; a slot of theirs fills through `forward`.
        """
        ...

    def forward(self, step: Step) -> Logits:
        """Run a step; float32 [R, V], the logits after each of `logit_rows`.

        Raises:
            RequestError: a token id is outside the vocabulary.
            ContextLengthError: a position is outside the context.
        """
        ...

    def free(self, slot: int) -> None:
        """Forget a slot's sequence and give its memory back."""
        ...

    def close(self) -> None:
        """Free the weights; the decoder cannot be used afterwards."""
        ...


class LoadedAdapter(Protocol):
    """An adapter in memory, in the form of the decoder that read it."""

    @property
    def resident_bytes(self) -> int:
        """Bytes that it holds."""
        ...

    @property
    def device(self) -> str:
        """As of `Decoder`."""
        ...

    @property
    def precision(self) -> str:
        """Of its numbers."""
        ...

    def close(self) -> None:
        """Free it; steps that have begun end as they would have."""
        ...


class AdaptedDecoder(Decoder, Protocol):
    """A decoder whose sequences may each be under an adapter of their own."""

    def read_adapter(self, folder: Path) -> LoadedAdapter:
        """Read an adapter of this model; in any thread, while steps are computed.

        Raises:
            AdapterError: its files are damaged, or it is of another kind or model.
        """
        ...


class Generator(Protocol):
    """Answers jobs, many at once. All methods belong to one event loop."""

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together (of each, for sequence to sequence)."""
        ...

    @property
    def device(self) -> str:
        """As of `Decoder`."""
        ...

    @property
    def precision(self) -> str:
        """As of `Decoder`."""
        ...

    @property
    def resident_bytes(self) -> int:
        """As of `Decoder`."""
        ...

    @property
    def kv_bytes(self) -> int:
        """As of `Decoder`."""
        ...

    def generate(self, job: GenerationJob) -> AsyncGenerator[Delta, None]:
        """The answer as it grows; the last delta has `finish` or `scores`.

        Closing the iterator, or cancelling the task that reads it, frees the job's slot before the
        next step.

        Raises:
            RequestError, ContextLengthError: the prompt cannot be read.
            OverloadedError: too much waits already; nothing was started.
            UnavailableError: the model was closed.
        """
        ...

    def stats(self) -> GeneratorStats:
        """The generator now."""
        ...

    def close(self) -> None:
        """End every job with UnavailableError and free the weights. Thread-safe."""
        ...


@dataclass(frozen=True, slots=True)
class GeneratorStats:
    """A generator now, and since it was made.

    Attributes:
        running: Jobs with a slot.
        waiting: Jobs without one.
        kv_tokens: Positions held.
        kv_capacity: Positions that can be held.
        prompt_tokens: Read since the start.
        generated_tokens: Drawn since the start.
        preemptions: Times that a job lost its slot to make room, to be read again later.
        steps: Forward passes.
        step_seconds: Spent in them.
    """

    running: int = 0
    waiting: int = 0
    kv_tokens: int = 0
    kv_capacity: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    step_seconds: float = 0.0
