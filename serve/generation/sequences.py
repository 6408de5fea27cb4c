"""What the scheduler knows of one job, and whether a decoder can answer it at all. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ironcliw.errors import ContextLengthError, RequestError
from serve.engines.protocol import Tokens
from serve.generation.protocol import Decoder, GenerationJob
from serve.generation.sampling import DrawContext

_REMEDY = "shorten the prompt, or raise serve.kv_cache_bytes"


@dataclass(frozen=True, slots=True)
class DecoderFacts:
    """What scheduling needs of a decoder; the attributes are those of `Decoder`."""

    vocabulary: int
    context: int
    slots: int
    kv_tokens: int
    start_token: int | None = None

    @classmethod
    def of(cls, decoder: Decoder) -> DecoderFacts:
        """Those of a decoder."""
        return cls(**{name: getattr(decoder, name) for name in cls.__slots__})


@dataclass(slots=True)
class JobSequence:
    """One job's tokens, and how far the decoder has read them.

    Attributes:
        id: Names the job.
        job: As it was submitted.
        rank: Place in the order, seconds; smaller first.
        limit: Most tokens of the answer, those in `job.generated` included.
        head: int32, what stands before the answer: the prompt, or the decoder's first token.
        source: int32, of a sequence-to-sequence job; else empty.
        draw: The answer so far, and how it goes on.
        slot: Where the decoder holds it; None while it waits.
        held: Positions that the slot holds.
        prompt_end: Its length when it was admitted: later tokens were drawn here.
    """

    id: int
    job: GenerationJob
    rank: float
    limit: int
    head: Tokens
    source: Tokens
    draw: DrawContext
    slot: int | None = None
    held: int = 0
    prompt_end: int = 0

    @property
    def length(self) -> int:
        """Tokens of the sequence now."""
        return len(self.head) + len(self.draw.generated)

    @property
    def pending(self) -> int:
        """Tokens that the decoder has not read yet; one while it decodes."""
        return self.length - self.held

    @property
    def kv_tokens(self) -> int:
        """Positions that it takes once all of it is read."""
        return self.length + len(self.source)

    def unread(self, count: int) -> list[int]:
        """The next tokens to read, so many."""
        answered = self.held - len(self.head)
        if answered >= 0:
            return self.draw.generated[answered : answered + count]
        tokens: list[int] = self.head[self.held : self.held + count].tolist()
        return tokens + self.draw.generated[: count - len(tokens)]


def make_sequence(id: int, job: GenerationJob, rank: float, facts: DecoderFacts) -> JobSequence:
    """Check a job against the decoder and prepare its sequence.

    The answer is cut to what fits: into the context beside the prompt, and into the whole KV cache.

    Raises:
        RequestError: no prompt, or an id that is not in the vocabulary.
        ContextLengthError: the prompt leaves no room for one token.
    """
    _check(job, facts)
    nothing = np.empty(0, np.int32)
    # as in transformers, a sequence-to-sequence model's repetition penalty sees the answer alone
    penalised = job.prompt if facts.start_token is None else nothing
    draw = DrawContext(job.sampling, penalised, job.generated.tolist(), job.index, job.score_tokens)
    if facts.start_token is None:
        limit = _causal_limit(job, facts)
        return JobSequence(id, job, rank, limit, job.prompt, nothing, draw)
    limit = _seq2seq_limit(job, facts)
    start = np.array([facts.start_token], np.int32)
    return JobSequence(id, job, rank, limit, start, job.prompt, draw)


def _check(job: GenerationJob, facts: DecoderFacts) -> None:
    if len(job.prompt) == 0:
        raise RequestError("the prompt has no tokens; send at least one")
    if job.max_tokens < 1:
        raise RequestError(
            f"max_tokens={job.max_tokens} leaves nothing to generate; ask for 1 or more",
            param="max_tokens",
        )
    if job.score_tokens and len(job.generated):
        raise RequestError("a job is scored after its prompt: `generated` must be empty")
    ids: dict[str, npt.NDArray[Any]] = {
        "prompt": job.prompt,
        "generated": job.generated,
        "logit_bias": np.array([token for token, _ in job.sampling.logit_bias], np.int64),
        "score_tokens": np.array(job.score_tokens, np.int64),
    }
    for name, array in ids.items():
        if len(array) and not 0 <= int(array.min()) <= int(array.max()) < facts.vocabulary:
            raise RequestError(
                f"{name} has the token ids {int(array.min())} to {int(array.max())}; this model's "
                f"are 0 to {facts.vocabulary - 1}"
            )


def _causal_limit(job: GenerationJob, facts: DecoderFacts) -> int:
    """The last token is never read, so it takes no position."""
    prompt = len(job.prompt)
    wanted = 0 if job.score_tokens else 1
    if prompt + wanted > facts.context:
        raise ContextLengthError(
            f"the prompt has {prompt} tokens and the model's context is {facts.context}: no room "
            f"is left for an answer; shorten it to {facts.context - wanted} or fewer"
        )
    if prompt > facts.kv_tokens:
        raise ContextLengthError(
            f"the prompt has {prompt} tokens and the KV cache holds {facts.kv_tokens}; {_REMEDY}"
        )
    return min(job.max_tokens, facts.context - prompt, facts.kv_tokens - prompt + 1)


def _seq2seq_limit(job: GenerationJob, facts: DecoderFacts) -> int:
    """Source and answer have a context each; the first token and all but the last are read."""
    source = len(job.prompt)
    if source > facts.context:
        raise ContextLengthError(
            f"the text has {source} tokens and the model reads {facts.context}; shorten it"
        )
    if source >= facts.kv_tokens:
        raise ContextLengthError(
            f"the text has {source} tokens and the KV cache holds {facts.kv_tokens} with the "
            f"answer; {_REMEDY}"
        )
    return min(job.max_tokens, facts.context, facts.kv_tokens - source)
