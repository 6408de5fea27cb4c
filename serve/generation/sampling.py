"""Draws the next token of each sequence from its logits. Pure: no state, no clock, no torch.

A draw is a function of the logits, the job's `Sampling`, and one uniform number made from (seed,
index, position); what else is in the batch has no part in it.

The order of the operations is that of vLLM (v1/sample/sampler.py) and transformers: bias,
repetition, frequency and presence penalty, temperature, top_k, top_p. The uniform number is then
looked up in the cumulative probabilities of what is left, listed from likely to unlikely, ties by
rising id; with neither top_k nor top_p, listed by rising id, which needs no sorting.

Shapes: R rows, V vocabulary, P prompt tokens, C candidates left after top_k and top_p.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ironcliw.errors import IroncliwError
from serve.engines.protocol import Tokens
from serve.generation.protocol import Logits, Sampling, TokenDraw

Scores = tuple[float, ...]
Sums = npt.NDArray[np.float64]

_GREEDY_BELOW = 1e-5
"""Temperatures below this one divide float32 logits beyond their range; vLLM draws the same line"""

_HEADS = (512, 8192)
"""How many likely tokens top_p looks at before it sorts all: they nearly always hold its mass, and
partitioning costs a third of sorting."""


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
    likeliest = logits.argmax(axis=1)  # a NaN counts as the largest
    if not np.isfinite(logits[np.arange(len(logits)), likeliest]).all():
        raise IroncliwError(
            "the model gave NaN or infinite logits: its weights are damaged, or overflow in this "
            "precision; load it again, or with IRONCLIW_SERVE_PRECISION=float32"
        )
    rows = zip(logits, contexts, likeliest.tolist(), strict=True)
    return [_outcome(row, context, best) for row, context, best in rows]


def uniform(seed: int, index: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, the same for the same arguments everywhere."""
    key = b"%d:%d:%d" % (seed, index, position)
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def log_probabilities(row: Logits, ids: Sequence[int]) -> Scores:
    """Natural log-softmax of a row at some ids, float64."""
    largest = float(row.max())
    total = float(np.exp(row - row.max()).sum(dtype=np.float64))
    return tuple((row[list(ids)].astype(np.float64) - (largest + np.log(total))).tolist())


def _outcome(row: Logits, context: DrawContext, likeliest: int) -> TokenDraw | Scores:
    if context.score_tokens:
        return log_probabilities(row, context.score_tokens)
    sampling = context.sampling
    adjusted = _penalise(row, context)
    if sampling.temperature >= _GREEDY_BELOW:
        token = _sample(adjusted, context)
    else:
        token = likeliest if adjusted is row else int(adjusted.argmax())
    if sampling.logprobs is None:
        return TokenDraw(token)
    top = _likeliest(row, sampling.logprobs)
    own, *others = log_probabilities(row, [token, *top])
    return TokenDraw(token, own, tuple(zip(top, others, strict=True)))


def _penalise(row: Logits, context: DrawContext) -> Logits:
    """The row with bias and penalties; the row itself where there are none."""
    sampling = context.sampling
    counted = bool(sampling.presence_penalty or sampling.frequency_penalty)
    if not (sampling.logit_bias or counted or sampling.repetition_penalty != 1):
        return row
    adjusted = row.copy()
    for token, bias in sampling.logit_bias:
        adjusted[token] += bias
    if sampling.repetition_penalty != 1:
        seen = np.concatenate([context.prompt, np.array(context.generated, np.int32)])
        values = adjusted[seen]  # a token that is there twice is read before it is written
        penalty = np.float32(sampling.repetition_penalty)
        adjusted[seen] = np.where(values < 0, values * penalty, values / penalty)
    if counted and context.generated:
        tokens, counts = np.unique(np.array(context.generated), return_counts=True)
        off = sampling.frequency_penalty * counts + sampling.presence_penalty
        adjusted[tokens] -= off.astype(np.float32)
    return adjusted


def _sample(row: Logits, context: DrawContext) -> int:
    sampling = context.sampling
    number = uniform(sampling.seed, context.index, len(context.generated))
    top_k = sampling.top_k if sampling.top_k < len(row) else 0
    if not top_k and sampling.top_p >= 1:
        return _find(_sums(row, row.max(), sampling.temperature), number)
    values, sums = _candidates(row, top_k, sampling)
    rank = _find(sums, number)
    # only the values are sorted: equal ones stand in the order of their ids
    first = int(np.argmax(values == values[rank]))
    return int(np.flatnonzero(row == values[rank])[rank - first])


def _candidates(row: Logits, top_k: int, sampling: Sampling) -> tuple[Logits, Sums]:
    """The logits that are left, largest first, and their cumulative weights, both [C]."""
    if top_k:
        values = _largest(row, top_k)
        sums = _sums(values, values[0], sampling.temperature)
        kept = _nucleus(sums, float(sums[-1]) * sampling.top_p)
        return values[:kept], sums[:kept]
    weights = _weights(row, row.max(), sampling.temperature)
    share = float(weights.sum(dtype=np.float64)) * sampling.top_p
    for count in (*(head for head in _HEADS if head < len(row)), len(row)):
        values = _largest(row, count)
        sums = _sums(values, values[0], sampling.temperature)
        if sums[-1] >= share:
            break
    kept = _nucleus(sums, share)
    return values[:kept], sums[:kept]


def _largest(row: Logits, count: int) -> Logits:
    """The `count` largest values, largest first."""
    part = np.partition(row, len(row) - count)[len(row) - count :] if count < len(row) else row
    return np.sort(part)[::-1]


def _weights(values: Logits, largest: np.float32, temperature: float) -> Logits:
    """Probabilities but for a common factor; float32, as logits have no more digits."""
    weights: Logits = np.exp((values - largest) / np.float32(temperature))
    return weights


def _sums(values: Logits, largest: np.float32, temperature: float) -> Sums:
    return np.cumsum(_weights(values, largest, temperature), dtype=np.float64)


def _nucleus(sums: Sums, share: float) -> int:
    """How many of the likeliest tokens it takes to hold this share; at least one.

    A token is kept while those before it hold less, as transformers' TopPLogitsWarper does.
    """
    return min(int(np.searchsorted(sums, share, side="left")) + 1, len(sums))


def _find(sums: Sums, number: float) -> int:
    """The first index at which the cumulative weights pass this share of them."""
    index = int(np.searchsorted(sums, number * sums[-1], side="right"))
    # the product can round up to the sum of all: then the last token with any weight
    return index if index < len(sums) else int(np.searchsorted(sums, sums[-1], side="left"))


def _likeliest(row: Logits, count: int) -> list[int]:
    """Ids of the `count` largest values, largest first, ties by rising id."""
    if count == 0:
        return []
    threshold = _largest(row, min(count, len(row)))[-1]
    ids = np.flatnonzero(row >= threshold)
    order = np.argsort(-row[ids], kind="stable")
    likeliest: list[int] = ids[order][:count].tolist()
    return likeliest
