"""Draws the next token of each sequence from its logits. Pure: no state, no clock.

A draw is a function of the logits, the job's `Sampling`, and one uniform number made from (seed,
index, position); what else is in the batch has no part in it.

The order of the operations is that of vLLM (v1/sample/sampler.py) and transformers: bias,
repetition, frequency and presence penalty, temperature, top_k, top_p. `native_ops.sampling` does
them; here are the key of the draw, and the shapes that the rest of the service uses.

Shapes: R rows, V vocabulary, P prompt tokens.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ironcliw.errors import IroncliwError
from native_ops.sampling import BROKEN, sample_tokens
from native_ops.sampling_reference import GREEDY_BELOW
from serve.engines.protocol import Tokens
from serve.engines.threads import number_of_threads
from serve.generation.protocol import Logits, Sampling, TokenDraw

Scores = tuple[float, ...]
Ids = npt.NDArray[np.int32]

_NO_IDS: Ids = np.zeros(0, np.int32)
_GREEDY = Sampling(temperature=0)

_THREADED_ROWS = 6
"""From so many rows on the operator would use threads; on a core that somebody else uses, waiting
for the second one took 8 ms where one thread takes 0.5 (8 rows) to 2.5 ms (32)."""


@dataclass(frozen=True, slots=True)
class DrawContext:
    """What a draw depends on beside the logits.

    Attributes:
        sampling: How to draw.
        prompt: int32 [P], for the repetition penalty.
        generated: The answer so far; its length is the position of the draw. The owner appends to
            it between two draws.
        index: As of `GenerationJob`.
        score_tokens: Instead of a draw, the log-probabilities of these ids.
    """

    sampling: Sampling
    prompt: Tokens
    generated: list[int] = field(default_factory=list)
    index: int = 0
    score_tokens: tuple[int, ...] = ()


def draw(logits: Logits, contexts: Sequence[DrawContext]) -> list[TokenDraw | Scores]:
    """One token, or the scores that were asked for, from each row.

    Args:
        logits: float32 [R, V]; not changed.
        contexts: R of them. Token ids in them are below V.

    Raises:
        IroncliwError: a row has NaN or infinity where its likeliest token should be.
    """
    if len(logits) != len(contexts):
        raise IroncliwError(
            f"the model gave {len(logits)} rows of logits where {len(contexts)} were asked for: "
            "this is a fault of the engine, please report it"
        )
    if not contexts:
        return []
    plain = all(map(_is_plain, contexts))
    if plain and all(context.sampling.temperature < GREEDY_BELOW for context in contexts):
        tokens, details = _likeliest(logits), []
    else:
        arguments = _plain_arguments(contexts) if plain else _arguments(contexts)
        # torch warns of memory that it must not write
        logits = np.require(logits, np.float32, ["C", "W"])
        tokens, *details = _sampled(logits, arguments)
    if BROKEN in tokens:
        raise IroncliwError(
            "the model gave NaN or infinite logits: its weights are damaged (fetch them again), or "
            "its numbers pass the range of float16; where it computes in float16, start with "
            "IRONCLIW_SERVE__PRECISION=float32, but keys and values on the compiled kernels of a "
            "CPU stay in float16 whatever is set"
        )
    if plain:
        return [TokenDraw(token) for token in tokens]
    outcomes = zip(logits, contexts, tokens, *details, strict=True)
    return [_outcome(*outcome) for outcome in outcomes]


def uniform(seed: int, index: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, the same for the same arguments everywhere."""
    key = b"%d:%d:%d" % (seed, index, position)
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def log_probabilities(row: Logits, ids: Sequence[int]) -> Scores:
    """Natural log-softmax of a row at some ids, float64."""
    (scores,) = draw(row[None], [DrawContext(_GREEDY, _NO_IDS, score_tokens=tuple(ids))])
    assert isinstance(scores, tuple)
    return scores


def _likeliest(logits: Logits) -> list[int]:
    """What `sample_tokens` gives where nothing else is asked for: it costs three times as much.

    numpy's argmax, too, takes the first of equals, and finds a NaN before any number.
    """
    tokens: list[int] = logits.argmax(axis=1).tolist()
    return [
        token if math.isfinite(logits[row, token]) else BROKEN for row, token in enumerate(tokens)
    ]


def _sampled(logits: Logits, arguments: tuple[torch.Tensor | int, ...]) -> list[list[Any]]:
    """The results of `sample_tokens`, as lists."""
    rows = torch.from_numpy(logits)
    if len(rows) < _THREADED_ROWS:
        return [result.tolist() for result in sample_tokens(rows, *arguments)]
    with number_of_threads(1):
        return [result.tolist() for result in sample_tokens(rows, *arguments)]


def _is_plain(context: DrawContext) -> bool:
    """Whether nothing is asked for but a token drawn by temperature, top_k and top_p."""
    how = context.sampling
    return (
        how.logprobs is None
        and not how.logit_bias
        and not context.score_tokens
        and how.repetition_penalty == 1
        and how.presence_penalty == how.frequency_penalty == 0
    )


@functools.lru_cache(maxsize=64)
def _greedy_arguments(rows: int) -> tuple[torch.Tensor | int, ...]:
    """For the likeliest token of each row; shared, so nobody may write to them."""
    return _arguments([DrawContext(_GREEDY, _NO_IDS)] * rows)


def _plain_arguments(contexts: Sequence[DrawContext]) -> tuple[torch.Tensor | int, ...]:
    """`_arguments` of plain rows; what is the same in all of them is made only once."""
    hows = [context.sampling for context in contexts]
    temperatures, top_p = [how.temperature for how in hows], [how.top_p for how in hows]
    real = torch.tensor([_numbers(contexts, hows), temperatures, top_p], dtype=torch.float64)
    top_k = [how.top_k for how in hows]
    _, _, _, no_top_k, *others = _greedy_arguments(len(contexts))
    return (
        *real.unbind(0),
        torch.tensor(top_k, dtype=torch.int64) if any(top_k) else no_top_k,
        *others,
    )


def _arguments(contexts: Sequence[DrawContext]) -> tuple[torch.Tensor | int, ...]:
    """What `sample_tokens` takes after the logits."""
    # a row that is only scored is drawn from in the cheapest way, and the token not used
    hows = [_GREEDY if context.score_tokens else context.sampling for context in contexts]
    penalties = [
        (how.repetition_penalty, how.presence_penalty, how.frequency_penalty) for how in hows
    ]
    histories = [
        _history(context) if penalty != (1, 0, 0) else (_NO_IDS, 0)
        for context, penalty in zip(contexts, penalties, strict=True)
    ]
    biases = [how.logit_bias for how in hows]
    top_counts = [_top_count(context) for context in contexts]
    return (
        torch.tensor(_numbers(contexts, hows), dtype=torch.float64),
        torch.tensor([how.temperature for how in hows], dtype=torch.float64),
        torch.tensor([how.top_p for how in hows], dtype=torch.float64),
        torch.tensor([how.top_k for how in hows], dtype=torch.int64),
        torch.tensor(penalties, dtype=torch.float64),
        torch.from_numpy(np.concatenate([ids for ids, _ in histories])),
        _starts([len(ids) for ids, _ in histories]),
        torch.tensor([answer for _, answer in histories], dtype=torch.int64),
        torch.tensor([token for bias in biases for token, _ in bias], dtype=torch.int32),
        torch.tensor([value for bias in biases for _, value in bias], dtype=torch.float32),
        _starts([len(bias) for bias in biases]),
        torch.tensor(top_counts, dtype=torch.int64),
        max(0, *top_counts),
    )


def _numbers(contexts: Sequence[DrawContext], hows: Sequence[Sampling]) -> list[float]:
    """What decides each draw; 0 where none is drawn."""
    return [
        uniform(how.seed, context.index, len(context.generated))
        if how.temperature >= GREEDY_BELOW
        else 0.0
        for context, how in zip(contexts, hows, strict=True)
    ]


def _history(context: DrawContext) -> tuple[Ids, int]:
    """Prompt and answer in one, and where the answer begins."""
    answer = np.array(context.generated, np.int32)
    return np.concatenate([context.prompt, answer]), len(context.prompt)


def _starts(sizes: list[int]) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int64)


def _top_count(context: DrawContext) -> int:
    if context.score_tokens:
        return 0
    return -1 if context.sampling.logprobs is None else context.sampling.logprobs


def _outcome(
    row: Logits, context: DrawContext, token: int, normaliser: float, likeliest: list[int]
) -> TokenDraw | Scores:
    if context.score_tokens:
        return _scores(row, context.score_tokens, normaliser)
    if context.sampling.logprobs is None:
        return TokenDraw(token)
    top = [each for each in likeliest[: context.sampling.logprobs] if each >= 0]
    own, *others = _scores(row, [token, *top], normaliser)
    return TokenDraw(token, own, tuple(zip(top, others, strict=True)))


def _scores(row: Logits, ids: Sequence[int], normaliser: float) -> Scores:
    return tuple((row[list(ids)].astype(np.float64) - normaliser).tolist())
