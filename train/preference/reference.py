"""Log-probabilities of the model that training began with: asked of it in each step, or kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from train.data.plan import in_order
from train.data.tokenized import TokenizedData
from train.loop.compute import Computer
from train.loop.reduce import Group
from train.model.branches import Branches
from train.model.packed_attention import BRANCHES
from train.preference.batch import PackedPairs, pack_pairs
from train.preference.losses import LogProbs
from train.preference.reference_cache import ReferenceCache

PART_BATCHES = 32
"""Micro-batches of one file of the cache: what is done again at most when a machine ends."""


class Reference(Protocol):
    """Where the reference's log-probabilities come from."""

    def of(self, pairs: PackedPairs) -> LogProbs:
        """float32 [P] each, without a gradient."""
        ...


class ModelReference:
    """The trained model without its adapters; a forward pass a micro-batch.

    Args:
        computer: Of the trained model.
    """

    def __init__(self, computer: Computer) -> None:
        self._computer = computer

    def of(self, pairs: PackedPairs) -> LogProbs:
        with torch.no_grad(), self._computer.without_adapters():
            return answer_logprobs(self._computer, pairs)


class KeptReference:
    """What was computed before the first step.

    Args:
        values: float32 [n, 2] of all rows that are asked for, from the first: chosen, rejected.
        device: Where to.
    """

    def __init__(self, values: npt.NDArray[np.float32], device: torch.device) -> None:
        self._values = torch.from_numpy(values).to(device)

    def of(self, pairs: PackedPairs) -> LogProbs:
        rows = self._values[list(pairs.rows)]
        return LogProbs(rows[:, 0], rows[:, 1])


def precompute(
    computer: Computer,
    data: TokenizedData,
    cache: ReferenceCache,
    group: Group,
    most_tokens: int,
    notice: Callable[[], bool],
    rows: int | None = None,
) -> npt.NDArray[np.float32] | None:
    """The log-probabilities of rows by the model as it is now.

    Rows are computed in the order of the data, so the bits do not depend on seed, shards or
    workers. Each worker computes a share of the parts; what is in the cache is not done again.

    Args:
        computer: Of the model before its first step.
        data: Preferences.
        cache: Where parts are kept.
        group: The workers.
        most_tokens: Of a micro-batch.
        notice: Whether this machine is about to end.
        rows: Only the first so many; None: all.

    Returns:
        float32 [n, 2], or None where a notice came; what was finished is in the cache.

    Raises:
        CheckpointError: the cache cannot be used.
        PeerLostError: another worker is gone.
    """
    batches = in_order(data, most_tokens, rows)
    starts = range(0, len(batches), PART_BATCHES)
    parts = [batches[at : at + PART_BATCHES] for at in starts]
    counts = [sum(len(batch.rows) for batch in part) for part in parts]
    for number in range(group.rank, len(parts), group.size):
        if cache.has(number, counts[number]):
            continue
        found = []
        for batch in parts[number]:
            if notice():
                return None
            pairs = pack_pairs(data, batch)
            with torch.no_grad():
                made = answer_logprobs(computer, pairs)
            found.append(torch.stack([made.chosen, made.rejected], 1).float().cpu().numpy())
        cache.write(number, np.concatenate(found))
    # nobody reads before all have written
    group.agree(len(parts))
    return np.concatenate([cache.read(number, count) for number, count in enumerate(counts)])


def answer_logprobs(computer: Computer, pairs: PackedPairs) -> LogProbs:
    """log p of each answer of a micro-batch, float32 [P] each; differentiable."""
    branches = Branches.of(pairs.branches, computer.device)
    tokens = computer.logprobs(pairs, {BRANCHES: branches})
    answers = torch.from_numpy(pairs.answers).to(tokens.device)
    sums = tokens.new_zeros(2 * pairs.pairs).index_add(0, answers, tokens)
    return LogProbs(sums[0::2], sums[1::2])
