"""Which rows of a tensor a worker holds: those of FSDP2, blocks of ceil(rows / workers). Pure.

R rows of a tensor, W workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


def rows_of(rank: int, workers: int, rows: int) -> range:
    """The rows that a worker holds; none where there are fewer blocks than workers.

    Args:
        rank: Of the worker, from 0.
        workers: How many there are.
        rows: Of the tensor.
    """
    block = -(-rows // workers)
    return range(min(rank * block, rows), min((rank + 1) * block, rows))


@dataclass(frozen=True, slots=True)
class Piece:
    """A worker's rows of a parameter, and where they lie in its vector.

    Attributes:
        name: Of the parameter.
        shape: Of the whole of it.
        rows: That the worker holds.
        first: Where the first of its numbers is in the vector.
    """

    name: str
    shape: tuple[int, ...]
    rows: range
    first: int

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return math.prod(self.shape[1:])

    @property
    def size(self) -> int:
        """Numbers that the worker holds."""
        return len(self.rows) * self.width

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Of the worker's rows."""
        return (len(self.rows), *self.shape[1:])


def pieces_of(
    shapes: Iterable[tuple[str, tuple[int, ...]]], rank: int, workers: int
) -> list[Piece]:
    """A worker's pieces of all parameters, one behind the other.

    Args:
        shapes: Name and whole shape of each, in an order that is always the same.
        rank: Of the worker.
        workers: How many there are.
    """
    found: list[Piece] = []
    first = 0
    for name, shape in shapes:
        piece = Piece(name, shape, rows_of(rank, workers, shape[0]), first)
        found.append(piece)
        first += piece.size
    return found
