"""Greedy answers of the model that is trained, several at a time.

Prompts are padded on the left, and attention is torch's own over the padded rows: packed rows
have no cache. The model is given back as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from train.evaluation.rows import Tokens
from train.loop.shares import InterruptedEvaluationError
from train.model.adapters import causal_of

_CACHED_SHARE = 8
"""Tokens in the cache for one in a micro-batch: a layer keeps two vectors of a token in the cache,
at the most, and 19 or more for a backward pass."""


def generate(
    model: Any,
    prompts: Sequence[Tokens],
    *,
    ends: Sequence[int],
    most_new: int,
    most_tokens: int,
    notice: Callable[[], bool],
) -> list[list[int]]:
    """The likeliest next token, again and again.

    Args:
        model: transformers' or peft's, in evaluation mode.
        prompts: In tokens.
        ends: Tokens that end an answer; they are not part of what is returned.
        most_new: Most tokens of an answer.
        most_tokens: Of a micro-batch of training.
        notice: Whether to leave at once; asked after each token.

    Raises:
        InterruptedEvaluationError: there was a notice.
    """
    found: dict[int, list[int]] = {}
    with torch.no_grad(), _padded_attention(causal_of(model)) as causal:
        for rows in groups(prompts, most_new, most_tokens):
            some = [prompts[row] for row in rows]
            answers = _greedy(causal, some, frozenset(ends), most_new, notice)
            found.update(zip(rows, answers, strict=True))
    return [found[row] for row in range(len(prompts))]


@contextmanager
def _padded_attention(causal: Any) -> Iterator[Any]:
    before = causal.config._attn_implementation
    causal.set_attn_implementation("sdpa")
    try:
        yield causal
    finally:
        causal.set_attn_implementation(before)


def groups(prompts: Sequence[Tokens], most_new: int, most_tokens: int) -> list[list[int]]:
    """Places of prompts of about one length, as many together as the cache has room for.

    Args:
        prompts: In tokens.
        most_new: Most tokens of an answer.
        most_tokens: Of a micro-batch of training.
    """
    found: list[list[int]] = []
    for row in sorted(range(len(prompts)), key=lambda row: -len(prompts[row])):
        # the first is the longest
        if (
            not found
            or (len(found[-1]) + 1) * (len(prompts[found[-1][0]]) + most_new)
            > _CACHED_SHARE * most_tokens
        ):
            found.append([])
        found[-1].append(row)
    return found


def _greedy(
    causal: Any,
    prompts: Sequence[Tokens],
    ends: frozenset[int],
    most_new: int,
    notice: Callable[[], bool],
) -> list[list[int]]:
    import transformers

    longest = max(map(len, prompts))
    device = causal.get_input_embeddings().weight.device
    padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    tokens = torch.tensor(padded, device=device)
    mask = torch.tensor(
        [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device
    )
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = transformers.DynamicCache(config=causal.config)
    answers: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    for _ in range(most_new):
        if notice():
            raise InterruptedEvaluationError
        logits = causal(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        chosen = logits.argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            if row not in open_rows:
                continue
            if token in ends:
                open_rows.remove(row)
            else:
                answers[row].append(token)
        if not open_rows:
            break
        tokens = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], 1)
        positions = positions[:, -1:] + 1
    return answers
