"""Sums whose bits depend neither on how many workers there are nor on who holds which numbers.

A sum of floating-point numbers depends on the order of its additions, and a library's reductions
choose theirs by the length of what they are given. Here gradients are added in the order of the
micro-batches, whoever computed them, and squares by a tree that the whole tensor's shape gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter


class Turn:
    """Who takes part in the round that is computed; shared by the sums of all layers.

    Attributes:
        active: For each worker, whether it computes a micro-batch of the step.
        number: Of the step's rounds, from 0.
    """

    def __init__(self) -> None:
        self.active: Sequence[bool] = ()
        self.number = 0


class OrderedReduceScatter(ReduceScatter):
    """The reduce-scatter of a layer's gradients, added one after the other.

    FSDP2 gives each worker its rows of the sum over workers. This one goes on with the sum of the
    rounds before, so that the additions of a step are those of one worker: first round, worker 0,
    1, ..., then the next round. What a worker without a micro-batch of its own has computed is
    left out.

    Args:
        turn: Of the round.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._total: torch.Tensor | None = None

    def allocate(
        self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """Memory for what is sent and what comes of it."""
        return torch.empty([int(each) for each in size], dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: torch.distributed.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        """Put this worker's rows of the sum so far into `output_tensor`."""
        received = torch.empty_like(input_tensor)
        torch.distributed.all_to_all_single(received, input_tensor, group=group)
        parts = received.view(group.size(), -1)
        total = self._total if self._turn.number else None
        for part, is_active in zip(parts, self._turn.active, strict=True):
            if not is_active:
                continue
            if total is None:
                total = output_tensor.copy_(part)
            elif total is output_tensor:
                total.add_(part)
            else:
                total = torch.add(total, part, out=output_tensor)
        if total is not None and total is not output_tensor:
            output_tensor.copy_(total)
        self._total = output_tensor

    def forget(self) -> None:
        """Give the sum's memory up: the step is done."""
        self._total = None


def sums_of_rows(numbers: torch.Tensor) -> torch.Tensor:
    """Sums [R] of the rows of numbers [R, D], by halving D: only additions of single numbers."""
    while numbers.shape[1] > 1:
        if numbers.shape[1] % 2:
            numbers = F.pad(numbers, (0, 1))
        half = numbers.shape[1] // 2
        numbers = numbers[:, :half] + numbers[:, half:]
    return numbers[:, 0] if numbers.shape[1] else numbers.new_zeros(len(numbers))
