"""Rows that go on from one beginning, which is computed once: two answers to one prompt.

All of a model but its attention sees each token by itself. For attention the rows are put
together: each branch's beginning is repeated before it, and what comes of the repetitions is left
out. That is little beside the products that a prompt's tokens are spared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Branch(NamedTuple):
    """Positions of a micro-batch; each end is excluded.

    Attributes:
        prefix_start: Where what precedes the branch begins.
        prefix_end: And ends; equal to the start: the branch is a row of its own.
        start: Where its own positions begin.
        end: And end.
    """

    prefix_start: int
    prefix_end: int
    start: int
    end: int


@dataclass(frozen=True)
class Branches:
    """Branches as whole rows.

    Attributes:
        order: int64 [A]; the positions of all rows, each with its prefix, one row after the other.
        starts: Where the rows start in it, ints [rows + 1], from 0 to A.
        own: int64 [T]; where in it a position is that is not repeated.
    """

    order: torch.Tensor
    starts: list[int]
    own: torch.Tensor

    @classmethod
    def of(cls, branches: Sequence[Branch], device: torch.device) -> Branches:
        """Of branches that cover all positions, each once, in their order."""
        order: list[int] = []
        own: list[int] = []
        starts = [0]
        for branch in branches:
            order += range(branch.prefix_start, branch.prefix_end)
            own += range(len(order), len(order) + branch.end - branch.start)
            order += range(branch.start, branch.end)
            starts.append(len(order))
        return cls(torch.tensor(order, device=device), starts, torch.tensor(own, device=device))
