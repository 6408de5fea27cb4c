"""RMSNorm and SwiGLU of training against float64 and autograd, on every level and in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from native_ops.operators import REFERENCES
from native_ops.swiglu import swiglu
from native_ops.training_norm import add_rms_norm, rms_norm_of
from tests.unit.native_ops.levels import on_each_level
from tests.unit.native_ops.operator_arguments import implementation, normal

DTYPES = [torch.float32, torch.bfloat16]
WIDTHS = [1, 15, 16, 17, 100, 576]
# of the largest number of a result, which is rounded to the dtype
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 5e-3}
EPSILON = 1e-5


def each_level(operator: str, *arguments: Any) -> list[Any]:
    """An operator's result on each level and from its reference."""
    compiled = implementation("compiled", operator)
    return [REFERENCES[operator](*arguments), *on_each_level(lambda: compiled(*arguments))]


def assert_near(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    assert found.shape == wanted.shape
    allowed = ROUNDING[dtype] * wanted.abs().max() + 1e-30
    assert (found.double() - wanted).abs().max() <= allowed


def normed(total: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return total / (total.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weight


def by_autograd(
    function: Callable[..., torch.Tensor], gradient: torch.Tensor, *arguments: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    leaves = [t.double().requires_grad_() for t in arguments]
    return torch.autograd.grad(function(*leaves), leaves, gradient.double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("with_residual", [False, True])
def test_the_norm_and_the_sum(width: int, dtype: torch.dtype, with_residual: bool) -> None:
    x, residual = (normal(7, width, seed=seed).to(dtype) for seed in (0, 1))
    weight = normal(width, seed=2).to(dtype)
    given = residual if with_residual else None
    for total, y, inverse in each_level("add_rms_norm", x, given, weight, EPSILON):
        wanted = (x + residual if with_residual else x).double()
        assert torch.equal(total, (x + residual) if with_residual else x[:0])
        assert_near(y, normed(wanted, weight.double()), dtype)
        assert_near(inverse, (wanted.square().mean(1) + EPSILON).rsqrt(), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("with_added", [False, True])
def test_the_gradients_of_the_norm(width: int, dtype: torch.dtype, with_added: bool) -> None:
    rows = 150  # more than one part of the weight's gradient
    gradient, added, total = (normal(rows, width, seed=seed).to(dtype) for seed in (0, 1, 2))
    weight = normal(width, seed=3).to(dtype)
    inverse = (total.double().square().mean(1) + EPSILON).rsqrt().float()
    of_total, of_weight = by_autograd(normed, gradient, total, weight)
    wanted = of_total + (added.double() if with_added else 0)
    given = (gradient, added if with_added else None, total, weight, inverse)
    scale = wanted.abs().max() + gradient.abs().max()  # at width 1 the two cancel
    for found, sums in each_level("add_rms_norm_backward", *given, True):
        assert (found.double() - wanted).abs().max() <= ROUNDING[dtype] * scale
        assert sums.dtype == torch.float32
        assert_near(sums, of_weight, torch.float32)
    for _, sums in each_level("add_rms_norm_backward", *given, False):
        assert sums.shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_swiglu_and_its_gradients(width: int, dtype: torch.dtype) -> None:
    gradient, gate, up = (4 * normal(7, width, seed=seed).to(dtype) for seed in range(3))

    def formula(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return F.silu(gate) * up

    for found in each_level("swiglu", gate, up):
        assert_near(found, formula(gate.double(), up.double()), dtype)
    wanted = by_autograd(formula, gradient, gate, up)
    for parts in each_level("swiglu_backward", gradient, gate, up):
        for part, right in zip(parts, wanted, strict=True):
            assert_near(part, right, dtype)


def test_large_gates_neither_overflow_nor_vanish() -> None:
    gate = torch.tensor([[-200.0, -90, 90, 200]])
    for found in each_level("swiglu", gate, torch.ones_like(gate)):
        torch.testing.assert_close(found, F.silu(gate))
    for of_gate, _ in each_level("swiglu_backward", torch.ones(1, 4), gate, torch.ones(1, 4)):
        torch.testing.assert_close(of_gate, torch.tensor([[0.0, 0, 1, 1]]))


def test_nan_stays_in_its_row() -> None:
    x = normal(3, 20)
    x[1, 3] = torch.nan
    for _, y, _ in each_level("add_rms_norm", x, None, torch.ones(20), EPSILON):
        assert y.isnan().any(1).tolist() == [False, True, False]


def test_the_gradients_in_float64() -> None:
    x, residual, weight = (
        t.double().requires_grad_() for t in (normal(4, 6), normal(4, 6, seed=1), normal(6, seed=2))
    )
    assert torch.autograd.gradcheck(lambda *t: add_rms_norm(*t, EPSILON), (x, residual, weight))
    assert torch.autograd.gradcheck(lambda x, w: add_rms_norm(x, None, w, EPSILON), (x, weight))
    assert torch.autograd.gradcheck(lambda x, w: rms_norm_of(x, w, EPSILON), (x, weight))
    assert torch.autograd.gradcheck(swiglu, (x, residual))


@pytest.mark.parametrize("used", [(True, True), (True, False), (False, True)])
def test_what_reaches_the_sum_and_the_norm_is_added(used: tuple[bool, bool]) -> None:
    x, residual, weight = normal(2, 4, 8), normal(2, 4, 8, seed=1), normal(8, seed=2)

    def loss(function: Callable[..., Any], *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = function(*leaves)
        terms = [part.sin().sum() for part, wanted in zip(parts, used, strict=True) if wanted]
        return torch.autograd.grad(torch.stack(terms).sum(), leaves[:2])

    def plain(x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = x + residual
        return total, normed(total, weight)

    leaves = [t.clone().requires_grad_() for t in (x, residual)]
    found = loss(lambda x, residual: add_rms_norm(x, residual, weight, EPSILON), *leaves)
    torch.testing.assert_close(found, loss(plain, *leaves), rtol=1e-4, atol=1e-5)


def test_a_weight_that_is_trained_has_a_gradient() -> None:
    x, weight = normal(5, 8), torch.nn.Parameter(normal(8, seed=1))
    (found,) = torch.autograd.grad(rms_norm_of(x, weight, EPSILON).sin().sum(), weight)
    (wanted,) = torch.autograd.grad(normed(x, weight).sin().sum(), weight)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    gradient, total = (normal(300, 577, seed=seed).to(dtype) for seed in (0, 1))
    weight, inverse = torch.ones(577, dtype=dtype), torch.ones(300)
    made = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        operators = torch.ops.ironcliw
        made.append(
            [
                *operators.add_rms_norm(total, gradient, weight, EPSILON),
                *operators.add_rms_norm_backward(gradient, None, total, weight, inverse, True),
                operators.swiglu(total, gradient),
                *operators.swiglu_backward(gradient, total, gradient),
            ]
        )
    for others in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], others, strict=True))


def test_a_second_derivative_is_refused() -> None:
    x = normal(3, 8).requires_grad_()
    for y in (rms_norm_of(x, torch.ones(8), EPSILON), swiglu(x, x)):
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiat"):
            torch.autograd.backward(first.sum())
