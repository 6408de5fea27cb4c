"""The two in-place kernels of the loss head: each level against the reference in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from native_ops.loss_head_tiles import (
    online_softmax_,
    online_softmax_step,
    softmax_gradient_,
    softmax_gradient_step,
)

ROWS, COLUMNS, WIDTH = 5, 83, 7


def state(rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """maximum, total, target_logit and gradient as after an earlier tile."""
    return (
        torch.linspace(-3, 3, rows, dtype=dtype),
        torch.ones(rows, dtype=dtype),
        torch.zeros(rows, dtype=dtype),
        torch.ones(rows, WIDTH, dtype=dtype),
    )


def logits(dtype: torch.dtype, rows: int = ROWS) -> torch.Tensor:
    return torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(1)).to(dtype)


TARGETS = torch.tensor([100, 100 + COLUMNS - 1, 5, 100 + COLUMNS, -100])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_online_softmax_against_float64(level: str, dtype: torch.dtype, tolerance: float) -> None:
    x = logits(dtype)
    exact, exact_state = x.double(), state(ROWS, torch.float64)
    actual_state = state(ROWS, torch.float32)
    online_softmax_step(exact, TARGETS, 100, *exact_state)
    online_softmax_(x, TARGETS, 100, *actual_state)
    torch.testing.assert_close(x.double(), exact, rtol=tolerance, atol=0)
    for actual, expected in zip(actual_state, exact_state, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
def test_softmax_gradient_against_float64(level: str, dtype: torch.dtype, tolerance: float) -> None:
    x, scale = logits(dtype), torch.linspace(-1, 1, ROWS)
    exact, total = x.double(), torch.logsumexp(x.double(), 1)
    softmax_gradient_step(exact, TARGETS, 100, total, scale.double())
    softmax_gradient_(x, TARGETS, 100, total.float(), scale)
    torch.testing.assert_close(x.double(), exact, rtol=tolerance, atol=1e-6)


def test_the_reference_takes_bfloat16_as_the_kernel_does(level: str) -> None:
    one, other = logits(torch.bfloat16), logits(torch.bfloat16)
    one_state, other_state = state(ROWS, torch.float32), state(ROWS, torch.float32)
    online_softmax_(one, TARGETS, 100, *one_state)
    online_softmax_step(other, TARGETS, 100, *other_state)
    torch.testing.assert_close(one, other, rtol=8e-3, atol=0)
    torch.testing.assert_close(one_state, other_state, rtol=8e-3, atol=0)


def test_same_bits_for_one_and_two_threads(level: str) -> None:
    rows, results = 2000, []
    targets, total, scale = torch.arange(rows), torch.ones(rows), torch.ones(rows)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        x, z = logits(torch.float32, rows), logits(torch.float32, rows)
        after = state(rows, torch.float32)
        online_softmax_(x, targets, 0, *after)
        softmax_gradient_(z, targets, 0, total, scale)
        results.append((x, z, *after))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"logits": torch.zeros(2, 3).half()}, "logits must be float32 or bfloat16; it is float16"),
        ({"logits": torch.zeros(2)}, r"logits must have 2 dimensions; its shape is \[2\]"),
        ({"logits": torch.zeros(3, 2).t()}, "logits must be contiguous"),
        ({"targets": torch.zeros(2)}, "targets must be int64; it is float32"),
        ({"targets": torch.zeros(3).long()}, "targets must have 2 in dimension 0"),
        ({"maximum": torch.zeros(1)}, "maximum must have 2 in dimension 0"),
        ({"total": torch.zeros(2).double()}, "total must be float32; it is float64"),
        ({"target_logit": torch.zeros(4)[::2]}, "target_logit must be contiguous"),
        ({"gradient": torch.zeros(3, 4)}, "gradient must have 2 in dimension 0"),
        ({"gradient": torch.zeros(4, 2).t()}, "gradient must be contiguous"),
    ],
)
def test_bad_input_names_operator_argument_and_rule(
    level: str, change: dict[str, Any], match: str
) -> None:
    arguments: dict[str, Any] = {
        "logits": torch.zeros(2, 3),
        "targets": torch.zeros(2).long(),
        "first": 0,
        "maximum": torch.zeros(2),
        "total": torch.zeros(2),
        "target_logit": torch.zeros(2),
        "gradient": None,
    }
    with pytest.raises(RuntimeError, match=f"ironcliw::online_softmax_: {match}"):
        online_softmax_(**{**arguments, **change})


def test_bad_scale_names_operator_argument_and_rule(level: str) -> None:
    with pytest.raises(RuntimeError, match="softmax_gradient_: scale must have 2 in dimension 0"):
        softmax_gradient_(
            torch.zeros(2, 3), torch.zeros(2).long(), 0, torch.zeros(2), torch.zeros(3)
        )
