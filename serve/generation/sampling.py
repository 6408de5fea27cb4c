"""Draws the next token of each sequence from its logits. Pure: no state, no clock.

A draw is a function of the logits, the job's `Sampling`, and one uniform number made from (seed,
index, position); what else is in the batch has no part in it.

The order of the operations is that of vLLM (v1/sample/sampler.py) and transformers: bias,
repetition, frequency and presence penalty, temperature, top_k, top_p. `native_ops.sampling` does
them; here are the key of the draw, and the shapes that the rest of the service uses.

Shapes: R rows, V vocabulary, P prompt tokens.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from ironcliw.errors import IroncliwError
from native_ops.sampling import BROKEN, sample_tokens
from native_ops.sampling_reference import GREEDY_BELOW
from serve.engines.protocol import Tokens
from serve.generation.protocol import Logits, Sampling, TokenDraw

Scores = tuple[float, ...]
Ids = npt.NDArray[np.int32]

_NO_IDS: Ids = np.zeros(0, np.int32)
_NONE = Sampling(temperature=0)


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
    # torch warns of memory that it must not write
    rows = np.require(logits, np.float32, ["C", "W"])
    drawn = sample_tokens(torch.from_numpy(rows), *_arguments(contexts))
    tokens, normalisers, likeliest = (result.tolist() for result in drawn)
    if BROKEN in tokens:
        raise IroncliwError(
            "the model gave NaN or infinite logits: its weights are damaged, or overflow in this "
            "precision; load it again, or with IRONCLIW_SERVE_PRECISION=float32"
        )
    outcomes = zip(rows, contexts, tokens, normalisers, likeliest, strict=True)
    return [_outcome(*outcome) for outcome in outcomes]


def uniform(seed: int, index: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, the same for the same arguments everywhere."""
    key = b"%d:%d:%d" % (seed, index, position)
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def log_probabilities(row: Logits, ids: Sequence[int]) -> Scores:
    """Natural log-softmax of a row at some ids, float64."""
    (scores,) = draw(row[None], [DrawContext(_NONE, _NO_IDS, score_tokens=tuple(ids))])
    assert isinstance(scores, tuple)
    return scores


def _arguments(contexts: Sequence[DrawContext]) -> tuple[torch.Tensor | int, ...]:
    """What `sample_tokens` takes after the logits."""
    # a row that is only scored is drawn from in the cheapest way, and the token not used
    hows = [_NONE if context.score_tokens else context.sampling for context in contexts]
    drawn = [how.temperature >= GREEDY_BELOW for how in hows]
    numbers = [
        uniform(how.seed, context.index, len(context.generated)) if wanted else 0.0
        for how, context, wanted in zip(hows, contexts, drawn, strict=True)
    ]
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
        torch.tensor(numbers, dtype=torch.float64),
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
