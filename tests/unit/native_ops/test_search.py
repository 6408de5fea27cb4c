"""Cosine search on every level and in the reference, against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native_ops.search import cosine_top_k, cosine_top_k_reference
from tests.unit.native_ops.levels import REFERENCE

Search = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture
def search(backend: str) -> Search:
    return cosine_top_k_reference if backend == REFERENCE else cosine_top_k


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantised(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scales = rows.abs().amax(1) / 127
    return (rows / scales[:, None]).round().to(torch.int8), scales


def unit64(rows: torch.Tensor) -> torch.Tensor:
    """In float64, which holds the squares of all that float32 does."""
    lengths = rows.double().norm(dim=1, keepdim=True)
    return rows.double() / torch.where(lengths > 0, lengths, 1)


def assert_nearest(
    found: tuple[torch.Tensor, torch.Tensor], queries: torch.Tensor, rows: torch.Tensor, k: int
) -> None:
    exact = unit64(queries) @ unit64(rows).T
    scores, indices = found
    assert scores.shape == indices.shape == (len(queries), k)
    expected = exact.topk(k, dim=1).values.float()
    torch.testing.assert_close(scores, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(scores, exact.gather(1, indices).float(), rtol=0, atol=2e-6)
    assert all(len(set(row)) == k for row in indices.tolist())


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16", "int8"])
def test_the_nearest_rows_of_every_type(search: Search, kind: str) -> None:
    for count, width, asked, k in ((1, 1, 1, 1), (50, 37, 3, 7), (300, 64, 9, 300), (9, 16, 0, 2)):
        queries, rows = normal(asked, width), normal(count, width, seed=1)
        scales = None
        if kind == "int8":
            matrix, scales = quantised(rows)
            rows = matrix * scales[:, None]
        else:
            matrix = rows.to(getattr(torch, kind))
            rows = matrix.float()
        if asked == 0:
            assert search(queries, matrix, k, scales)[1].shape == (0, k)
            continue
        assert_nearest(search(queries, matrix, k, scales), queries, rows, k)


def test_random_shapes(search: Search) -> None:
    @given(st.integers(1, 200), st.integers(1, 70), st.integers(1, 18), st.integers(0, 99))
    @settings(max_examples=12, deadline=None)
    def check(count: int, width: int, asked: int, seed: int) -> None:
        queries, rows = normal(asked, width, seed=seed), normal(count, width, seed=seed + 1)
        k = 1 + seed % count
        assert_nearest(search(queries, rows, k), queries, rows, k)

    check()


def test_rows_and_queries_of_any_size(search: Search) -> None:
    powers = st.lists(st.integers(-25, 25), min_size=1, max_size=30)

    @given(powers, powers, st.integers(1, 70), st.sampled_from([torch.float32, torch.bfloat16]))
    @settings(max_examples=20, deadline=None)
    def check(of_queries: list[int], of_rows: list[int], width: int, kind: torch.dtype) -> None:
        queries = normal(len(of_queries), width) * sizes(of_queries)
        rows = (normal(len(of_rows), width, seed=1) * sizes(of_rows)).to(kind)
        k = 1 + len(of_rows) // 2
        before = queries.clone()
        assert_nearest(search(queries, rows, k), queries, rows, k)
        norms = rows.double().norm(dim=1).float()
        assert_nearest(search(queries, rows, k, None, norms), queries, rows, k)
        assert torch.equal(queries, before)
        matrix, signs = quantised(normal(len(of_rows), width, seed=1))
        scales = sizes(of_rows)[:, 0] * signs.sign()
        found = search(queries, matrix, k, scales)
        assert_nearest(found, queries, matrix.double() * scales.double()[:, None], k)

    check()


def sizes(powers: list[int]) -> torch.Tensor:
    """[N, 1]"""
    return torch.tensor([10.0**power for power in powers])[:, None]


def test_the_order_at_both_ends_of_float32(search: Search) -> None:
    x, noise = normal(2, 32)
    rows = torch.stack([1e20 * x, noise, 1e-25 * x, 3e-42 * torch.ones(32), 1e37 * noise])
    # both have the cosine 1, but for the last bit
    assert sorted(search(x[None], rows, 2)[1][0].tolist()) == [0, 2]
    for size in (1e-42, 1e-20, 1e36):
        assert_nearest(search(size * x[None], rows, 5), size * x[None], rows, 5)
    matrix = torch.ones(2, 8).to(torch.int8)
    for scale in (1e-44, 1e-20, 1e20, 3e38):
        scores = search(torch.ones(1, 8), matrix, 2, torch.tensor([-scale, scale]))[0]
        torch.testing.assert_close(scores, torch.tensor([[1.0, -1.0]]))
    rows[1, 3] = torch.inf
    scores, indices = search(x[None], rows, 5)
    assert indices[0, 4] == 1
    assert scores[0, 4].isnan()
    assert search(torch.full((1, 32), torch.inf), rows, 5)[0].isnan().all()


def test_many_rows_on_several_threads_keep_one_order(search: Search) -> None:
    rows = normal(9000, 64, seed=2).round()  # many equal scores in low precision
    rows[4000:8000] = rows[:4000]
    queries = normal(2, 64, seed=3)
    one, other = search(queries, rows, 500), search(queries, rows, 500)
    assert torch.equal(one[1], other[1])
    assert torch.equal(one[0], other[0])
    scores, indices = one
    equal = scores[:, 1:] == scores[:, :-1]
    assert equal.sum() > 100
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    assert (indices[:, 1:] > indices[:, :-1])[equal].all()


def test_nan_and_zeros_never_win(search: Search) -> None:
    rows = torch.ones(5, 20)
    rows[0, 3] = torch.nan
    rows[2] = 0
    rows[4] = -1
    scores, indices = search(torch.ones(1, 20), rows, 5)
    assert indices.tolist() == [[1, 3, 2, 4, 0]]
    assert scores[0, 2] == 0
    assert scores[0, 4].isnan()
    assert search(torch.zeros(1, 20), rows[3:], 2)[0].tolist() == [[0, 0]]
    assert search(torch.full((1, 20), torch.nan), rows, 2)[0].isnan().all()


def test_a_row_whose_norm_is_given_as_nan_comes_last(search: Search) -> None:
    norms = torch.tensor([torch.nan, 1.0, 1.0])
    scores, indices = search(
        torch.ones(1, 2), torch.tensor([[1.0, 1], [0, -1], [1, 0]]), 3, None, norms
    )
    assert indices.tolist() == [[2, 1, 0]]
    assert scores.isnan().tolist() == [[False, False, True]]


def test_norms_as_given_and_non_contiguous_input(search: Search) -> None:
    rows, queries = normal(40, 33), normal(3, 33, seed=1)
    norms = rows.norm(dim=1)
    assert_nearest(search(queries, rows, 4, None, norms), queries, rows, 4)
    doubled = search(queries, rows, 4, None, 2 * norms)[0]
    torch.testing.assert_close(2 * doubled, search(queries, rows, 4)[0])
    apart = rows.T.contiguous().T
    assert not apart.is_contiguous()
    assert_nearest(search(queries.T.contiguous().T, apart, 4), queries, rows, 4)
    matrix, scales = quantised(rows)
    true_rows = matrix * scales[:, None]
    found = search(queries, matrix, 4, scales, true_rows.norm(dim=1))
    assert_nearest(found, queries, true_rows, 4)


ROWS, QUERY = torch.ones(4, 8), torch.ones(1, 8)
BAD: list[tuple[tuple[Any, ...], str]] = [
    ((QUERY.double(), ROWS, 1), "queries must be float32; it is float64"),
    ((QUERY[0], ROWS, 1), "queries must have 2 dimensions"),
    ((QUERY, ROWS.double(), 1), "matrix must be float32, bfloat16, float16 or int8"),
    ((QUERY, ROWS[:0], 1), "matrix must have rows"),
    ((QUERY[:, :7], ROWS, 1), "queries must have 8 in dimension 1"),
    ((QUERY, ROWS, 0), "k must be from 1 to the matrix's 4 rows; it is 0"),
    ((QUERY, ROWS, 5), "k must be from 1 to the matrix's 4 rows; it is 5"),
    ((QUERY, ROWS, 1, torch.ones(4)), "scales must be given with an int8 matrix"),
    ((QUERY, ROWS.to(torch.int8), 1), "scales must be given with an int8 matrix"),
    ((QUERY, ROWS.to(torch.int8), 1, torch.ones(3)), "scales must have 4 in dimension 0"),
    ((QUERY, ROWS, 1, None, torch.ones(4).double()), "norms must be float32"),
    ((QUERY, ROWS, 1, None, torch.ones(4, 1)), "norms must have 1 dimensions"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_arguments_are_named(search: Search, bad: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"ironcliw::cosine_top_k: {message}"):
        search(*bad)
