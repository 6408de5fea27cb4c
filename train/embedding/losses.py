"""The contrastive loss: of all candidates, an anchor's own shall be the nearest. Pure.

    loss of anchor r = - log ( exp(cos(r, own) / t) / sum over candidates c of exp(cos(r, c) / t) )

It is InfoNCE (van den Oord et al., arXiv 1807.03748), also called multiple negatives ranking
(Henderson et al., arXiv 1705.00652). With several lengths of vectors it is their mean (Matryoshka,
Kusupati et al., arXiv 2205.13147).

Shapes: R anchors, C candidates, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def contrastive_loss(
    anchors: torch.Tensor,
    candidates: torch.Tensor,
    own: torch.Tensor,
    excluded: torch.Tensor,
    *,
    temperature: float,
    lengths: Sequence[int],
) -> torch.Tensor:
    """The loss of each anchor, float32 [R].

    Args:
        anchors: float32 [R, D], of any length.
        candidates: float32 [C, D], of any length.
        own: int64 [R], which candidate is each anchor's positive.
        excluded: bool [R, C], what counts neither as positive nor as negative; never the own.
        temperature: What cosines are divided by.
        lengths: How many of the first dimensions are compared, one or several times.
    """
    losses = [
        F.cross_entropy(
            (cosines(anchors, candidates, length) / temperature).masked_fill(excluded, -torch.inf),
            own,
            reduction="none",
        )
        for length in lengths
    ]
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean(0)


def cosines(a: torch.Tensor, b: torch.Tensor, length: int) -> torch.Tensor:
    """Of the first dimensions of each pair of vectors, float32 [R, C]."""
    return F.normalize(a[:, :length], dim=1) @ F.normalize(b[:, :length], dim=1).T


def nearest_is_own(
    anchors: torch.Tensor,
    candidates: torch.Tensor,
    own: torch.Tensor,
    excluded: torch.Tensor,
    length: int,
) -> torch.Tensor:
    """Whether no candidate is nearer to an anchor than its own, bool [R]."""
    found = cosines(anchors, candidates, length).masked_fill(excluded, -torch.inf)
    return found.argmax(1) == own
