"""Passes without a gradient that the workers of a run share, and whose results all of them know.

Pieces are dealt out in rounds, one to each worker, and the workers meet after every round. So no
worker waits for another longer than a piece takes, a notice on one machine ends the work on all of
them at once, and the sums, added in the order of the pieces, have the same bits for any number of
workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from train.loop.reduce import Group

Piece = TypeVar("Piece")


class InterruptedEvaluationError(Exception):
    """The machine of a worker is about to end; the measure is not complete."""


def sum_in_shares(
    group: Group,
    pieces: Sequence[Piece],
    compute: Callable[[Piece], Sequence[float]],
    width: int,
    notice: Callable[[], bool],
) -> list[float]:
    """The sums of what was computed of the pieces, added in their order; the same on all workers.

    Args:
        group: The workers; all of them call this, with the same pieces.
        pieces: What to compute.
        compute: Numbers of a piece; may raise `InterruptedEvaluationError`.
        width: How many numbers.
        notice: Whether this worker's machine is about to end; asked before each piece.

    Raises:
        InterruptedEvaluationError: the machine of a worker is about to end.
        PeerLostError: another worker is gone.
    """
    sums = [0.0] * width
    for first in range(0, len(pieces), group.size):
        mine = pieces[first + group.rank : first + group.rank + 1]
        rows = group.numbers(_told(mine, compute, width, notice))
        if any(ends for ends, *_ in rows):
            raise InterruptedEvaluationError
        for _, *numbers in rows[: len(pieces) - first]:
            # not `sum`, which rounds otherwise from Python 3.12 on
            sums = [a + b for a, b in zip(sums, numbers, strict=True)]
    return sums


def _told(
    mine: Sequence[Piece],
    compute: Callable[[Piece], Sequence[float]],
    width: int,
    notice: Callable[[], bool],
) -> list[float]:
    """Whether this machine ends, and then the numbers of its piece; zeros where it has none."""
    ends, numbers = notice(), [0.0] * width
    try:
        for piece in () if ends else mine:
            numbers = list(compute(piece))
    except InterruptedEvaluationError:
        ends = True
    return [float(ends), *numbers]
