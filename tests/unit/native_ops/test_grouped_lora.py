"""Adapters of one batch on every level and in the reference, against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native_ops.grouped_lora import NO_ADAPTER, grouped_lora, grouped_lora_reference
from tests.unit.native_ops.levels import REFERENCE

Update = Callable[..., None]


@pytest.fixture
def update(backend: str) -> Update:
    return grouped_lora_reference if backend == REFERENCE else grouped_lora


def example(
    rows: int, inputs: int, outputs: int, adapters: int = 3, ranks: int = 5, **kwargs: Any
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(kwargs.pop("seed", 0))
    dtype = kwargs.pop("dtype", torch.float32)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def below(end: int, *shape: int, start: int = 0) -> torch.Tensor:
        return torch.randint(start, end, shape, generator=generator)

    assert not kwargs
    return {
        "x": normal(rows, inputs),
        "y": normal(rows, outputs),
        "a_weights": (normal(adapters, ranks, inputs) / inputs**0.5).to(dtype),
        "b_weights": normal(adapters, outputs, ranks).to(dtype),
        "ranks": below(ranks + 1, adapters),
        "scales": normal(adapters),
        "adapter": below(adapters, rows, start=NO_ADAPTER),
    }


def exact(given: dict[str, torch.Tensor]) -> torch.Tensor:
    result = given["y"].double()
    for row, index in enumerate(given["adapter"].tolist()):
        if index == NO_ADAPTER:
            continue
        rank = int(given["ranks"][index])
        hidden = given["a_weights"][index, :rank].double() @ given["x"][row].double()
        change = given["b_weights"][index, :, :rank].double() @ hidden
        result[row] += given["scales"][index].double() * change
    return result


def updated(update: Update, given: dict[str, torch.Tensor]) -> torch.Tensor:
    y = given["y"].clone()
    update(*(given | {"y": y}).values())
    return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (7, 33, 50), (20, 100, 17, 4, 20), (0, 8, 8)])
def test_rows_change_by_their_adapter(
    update: Update, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    given = example(*shape, dtype=dtype)
    torch.testing.assert_close(updated(update, given).double(), exact(given), rtol=0, atol=1e-4)
    turned = given["b_weights"].transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(updated(update, given | {"b_weights": turned}), updated(update, given))


def test_random_shapes(update: Update) -> None:
    sizes = st.integers(1, 70)

    @given(st.integers(0, 12), sizes, sizes, st.integers(1, 5), st.integers(1, 33))
    @settings(max_examples=12, deadline=None)
    def check(rows: int, inputs: int, outputs: int, adapters: int, ranks: int) -> None:
        given = example(rows, inputs, outputs, adapters, ranks, seed=rows)
        torch.testing.assert_close(updated(update, given).double(), exact(given), rtol=0, atol=1e-4)

    check()


def test_large_batches_on_several_threads(update: Update) -> None:
    given = example(200, 600, 700, adapters=5, ranks=16)
    torch.testing.assert_close(updated(update, given).double(), exact(given), rtol=0, atol=1e-4)


def test_the_bits_of_a_row_are_its_own(level: str) -> None:
    given = example(33, 130, 90, adapters=3, ranks=9)
    together = updated(grouped_lora, given)
    for row in range(33):
        one = slice(row, row + 1)
        alone = given | {name: given[name][one] for name in ("x", "y", "adapter")}
        assert torch.equal(updated(grouped_lora, alone), together[one])


def test_rows_without_an_adapter_and_ranks_beyond_are_not_touched(update: Update) -> None:
    given = example(6, 40, 30)
    given["ranks"][:] = 3
    given["adapter"][:] = torch.tensor([0, -1, 2, -1, 2, 0])
    given["a_weights"][1] = given["a_weights"][:, 3:] = torch.nan
    given["b_weights"][1] = given["b_weights"][:, :, 3:] = torch.nan
    given["x"][1] = torch.nan
    result = updated(update, given)
    assert not result.isnan().any()
    assert torch.equal(result[1], given["y"][1])
    given["x"][2, 5] = torch.nan
    assert updated(update, given).isnan().any(1).tolist() == [row == 2 for row in range(6)]


def test_non_contiguous_input(update: Update) -> None:
    given = example(6, 40, 30)
    apart = given | {name: given[name].mT.contiguous().mT for name in ("x", "a_weights")}
    torch.testing.assert_close(updated(update, apart), updated(update, given))


GOOD = example(2, 8, 6)
BAD: list[tuple[dict[str, torch.Tensor], str]] = [
    ({"x": GOOD["x"].double()}, "x must be float32; it is float64"),
    ({"y": GOOD["y"][:1]}, "y must have 2 in dimension 0"),
    ({"y": torch.zeros(6, 2).T}, "y must be contiguous"),
    ({"a_weights": GOOD["a_weights"].half()}, "a_weights must be float32 or bfloat16"),
    ({"a_weights": GOOD["a_weights"][:, :, 1:]}, "a_weights must have 8 in dimension 2"),
    ({"b_weights": GOOD["b_weights"].bfloat16()}, "b_weights must be float32; it is bfloat16"),
    ({"b_weights": GOOD["b_weights"][:, :, 1:]}, "b_weights must have 5 in dimension 2"),
    ({"ranks": torch.tensor([0, 6, 0])}, "ranks must be from 0 to 5"),
    ({"ranks": torch.tensor([0, 5, -1])}, "ranks must be from 0 to 5"),
    ({"scales": torch.ones(2)}, "scales must have 3 in dimension 0"),
    ({"adapter": torch.tensor([0, 3])}, "adapter must hold ids from -1 to 2"),
    ({"adapter": torch.tensor([-2, 0])}, "adapter must hold ids from -1 to 2"),
    ({"adapter": torch.tensor([0.0, 1])}, "adapter must be int64; it is float32"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_arguments_are_named(
    update: Update, bad: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(RuntimeError, match=f"ironcliw::grouped_lora: {message}"):
        update(*(GOOD | bad).values())
