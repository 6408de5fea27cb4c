"""Attention over packed rows with rotary positions against float64, on every level and in torch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from native_ops.operators import REFERENCES
from native_ops.rotary_attention import rotary_attention
from tests.unit.native_ops.levels import on_each_level
from tests.unit.native_ops.operator_arguments import implementation, normal, starts

DTYPES = [torch.float32, torch.bfloat16]
# of the largest number of a result: weights are rounded to bfloat16 too
ROUNDING = {torch.float32: 5e-6, torch.bfloat16: 2e-2}
SHAPES = [
    # lengths, heads, key heads, width
    ([1], 1, 1, 2),
    ([5, 1, 40, 33, 100], 6, 2, 64),
    ([31, 32, 33], 3, 3, 8),
    ([65, 15, 17], 4, 1, 24),
    ([130], 9, 3, 64),
    ([70], 2, 1, 128),
]


def example(
    lengths: list[int], heads: int, keys: int, width: int, dtype: torch.dtype, rotated: bool
) -> tuple[Any, ...]:
    total = sum(lengths)
    q, k, v = (normal(total, n * width, seed=n + s) for s, n in enumerate((heads, keys, keys)))
    # halves that differ, so that an exchange of the two is found
    angles = 3 * normal(total, width, seed=9)
    rotation = [t.to(dtype) if rotated else None for t in (angles.cos(), angles.sin())]
    return *(t.to(dtype) for t in (q, k, v)), *rotation, starts(lengths), width, width**-0.5


def formula(q: Any, k: Any, v: Any, cos: Any, sin: Any, cu: Any, width: int, scale: float) -> Any:
    """Row by row and head by head in plain torch."""

    def turned(t: torch.Tensor, at: slice) -> torch.Tensor:
        if cos is None:
            return t
        half = width // 2
        swapped = torch.cat((-t[:, half:], t[:, :half]), 1)
        return t * cos[at] + swapped * sin[at]

    parts = []
    ends = cu.tolist()
    for first, end in itertools.pairwise(ends):
        at, heads = slice(first, end), q.shape[1] // width
        group, outputs = q.shape[1] // k.shape[1], []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            shared = slice(head // group * width, (head // group + 1) * width)
            logits = turned(q[at, own], at) @ turned(k[at, shared], at).T * scale
            later = torch.ones_like(logits, dtype=torch.bool).triu(1)
            outputs.append(logits.masked_fill(later, -torch.inf).softmax(1) @ v[at, shared])
        parts.append(torch.cat(outputs, 1))
    return torch.cat(parts)


def assert_near(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    assert found.shape == wanted.shape
    assert (found.double() - wanted).abs().max() <= ROUNDING[dtype] * (wanted.abs().max() + 0.01)


def doubles(arguments: tuple[Any, ...]) -> list[Any]:
    return [
        t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t
        for t in arguments
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape: Any, dtype: torch.dtype, rotated: bool) -> None:
    given = example(*shape, dtype, rotated)
    q, k, v, *rest = doubles(given)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    wanted = formula(*leaves, *rest)
    gradient = normal(*wanted.shape, seed=8).to(dtype)
    wanted_gradients = torch.autograd.grad(wanted, leaves, gradient.double())
    forward, backward = (
        implementation("compiled", f"rotary_attention{end}") for end in ("", "_backward")
    )

    def compiled() -> Any:
        out, sums = forward(*given)
        return out, backward(gradient, *given[:6], sums, *given[6:])

    plain, sums = REFERENCES["rotary_attention"](*given)
    reference = REFERENCES["rotary_attention_backward"](gradient, *given[:6], sums, *given[6:])
    for out, gradients in [(plain, reference), *on_each_level(compiled)]:
        assert out.dtype == dtype
        assert_near(out, wanted, dtype)
        for found, right in zip(gradients, wanted_gradients, strict=True):
            assert_near(found, right, dtype)


def test_the_gradients_in_float64() -> None:
    q, k, v, *rest = doubles(example([3, 2], 4, 2, 4, torch.float32, True))
    leaves = tuple(t.requires_grad_() for t in (q, k, v))
    assert torch.autograd.gradcheck(lambda *t: rotary_attention(*t, *rest), leaves)


def test_a_row_sees_itself_and_nothing_after_it() -> None:
    given = list(example([40, 50], 2, 1, 16, torch.float32, True))
    before = rotary_attention(*given)
    given[1], given[2] = given[1].clone(), given[2].clone()
    given[1][70] += 1
    given[2][70] += 1
    changed = (rotary_attention(*given) != before).any(1)
    assert not changed[:70].any()
    assert changed[70:].all()


def test_a_row_alone_has_the_bits_it_has_among_others() -> None:
    lengths, shape = [37, 90, 5], (6, 2, 64)
    for dtype in DTYPES:
        given = example(lengths, *shape, dtype, True)
        whole = rotary_attention(*given)
        alone = [t[37:127] for t in given[:5]]
        found = rotary_attention(*alone, starts([90]), *given[6:])
        assert torch.equal(found, whole[37:127])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    given = example([80, 3, 50, 64], 6, 3, 64, dtype, True)
    made = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaves = [t.clone().requires_grad_() for t in given[:3]]
        out = rotary_attention(*leaves, *given[3:])
        made.append([out, *torch.autograd.grad(out.float().square().sum(), leaves)])
    for others in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], others, strict=True))


def test_large_products_are_no_overflow() -> None:
    q, k, v, *rest = example([20], 2, 1, 16, torch.float32, False)
    out = rotary_attention(1e3 * q, 1e3 * k, v, *rest)
    wanted = formula(1e3 * q.double(), 1e3 * k.double(), v.double(), *rest)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-3, atol=1e-3)


def test_no_tokens_give_none() -> None:
    q, k, v, *_ = example([1], 2, 1, 16, torch.float32, False)
    none = torch.zeros(1, dtype=torch.int32)
    assert rotary_attention(q[:0], k[:0], v[:0], None, None, none, 16, 0.25).shape == (0, 32)


def test_a_second_derivative_is_refused() -> None:
    q, k, v, *rest = example([4], 2, 1, 16, torch.float32, True)
    q.requires_grad_()
    (first,) = torch.autograd.grad(
        rotary_attention(q, k, v, *rest).square().sum(), q, create_graph=True
    )
    with pytest.raises(RuntimeError, match="differentiat"):
        torch.autograd.backward(first.sum())
