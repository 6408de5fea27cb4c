"""Which rows a worker holds."""

from __future__ import annotations

import pytest
import torch

from train.sharding.layout import pieces_of, rows_of


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 8, 64])
@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_rows_are_cut_as_torch_cuts_them(rows: int, workers: int) -> None:
    chunks = torch.chunk(torch.arange(rows), workers)
    expected = [chunk.tolist() for chunk in chunks] + [[]] * (workers - len(chunks))
    assert [list(rows_of(rank, workers, rows)) for rank in range(workers)] == expected


def test_pieces_lie_one_behind_the_other() -> None:
    shapes = [("a", (5, 3)), ("b", (4,)), ("c", (1, 2, 2))]
    first, second = (pieces_of(shapes, rank, 2) for rank in (0, 1))
    assert [(p.name, [*p.rows], p.first, p.local_shape) for p in first] == [
        ("a", [0, 1, 2], 0, (3, 3)),
        ("b", [0, 1], 9, (2,)),
        ("c", [0], 11, (1, 2, 2)),
    ]
    assert [(p.name, [*p.rows], p.first, p.size) for p in second] == [
        ("a", [3, 4], 0, 6),
        ("b", [2, 3], 6, 2),
        ("c", [], 8, 0),
    ]
