"""Linear layers in 8 and 4 bits: against the exact product, and against their own numbers."""

from __future__ import annotations

import logging
from typing import Literal

import pytest
import torch

from ironcliw.errors import UnsupportedError
from serve.engines.decoders import quantized
from serve.engines.decoders.quantized import make_quantized_linear

TOKENS = (1, 16, 17, 65)
"""Both sides of each kernel's limit."""


def weight_of(n: int, k: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n * 7 + k)
    return (torch.randn(n, k, generator=generator) * 0.02).to(dtype)


def activations(tokens: int, k: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(tokens, k, generator=torch.Generator().manual_seed(tokens)).to(dtype)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.float() - expected.float()).norm() / expected.float().norm())


def own_weight(linear: object, k: int, dtype: torch.dtype) -> torch.Tensor:
    """The matrix that a layer really applies, by applying it to the unit vectors, [N, K]."""
    assert callable(linear)
    columns = [linear(torch.eye(k, dtype=dtype)[i : i + 8]).clone() for i in range(0, k, 8)]
    return torch.cat(columns).t().float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("bits", "bound"), [(8, 0.01), (4, 0.12)])
def test_product_is_near_the_exact_one(
    bits: Literal[4, 8], bound: float, dtype: torch.dtype
) -> None:
    weight, bias = weight_of(192, 576, dtype), weight_of(1, 192, dtype)[0]
    linear = make_quantized_linear(weight, bias, bits)
    for tokens in TOKENS:
        x = activations(tokens, 576, dtype)
        exact = x.float() @ weight.float().t() + bias.float()
        assert 0 < relative_error(linear(x), exact) < bound


@pytest.mark.parametrize("bits", [8, 4])
def test_few_and_many_tokens_use_the_same_numbers(bits: Literal[4, 8]) -> None:
    linear = make_quantized_linear(weight_of(128, 64, torch.float32), None, bits)
    matrix = own_weight(linear, 64, torch.float32)
    for tokens in TOKENS:
        x = activations(tokens, 64, torch.float32)
        torch.testing.assert_close(linear(x), x @ matrix.t(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_in_bf16_only_the_activations_precision_is_lost(bits: Literal[4, 8]) -> None:
    linear = make_quantized_linear(weight_of(128, 96), None, bits)
    matrix = own_weight(linear, 96, torch.bfloat16)
    for tokens in TOKENS:
        x = activations(tokens, 96)
        # a bf16 number has 8 bits: 2^-9 for each rounding of the weight and of the output
        assert relative_error(linear(x), x.float() @ matrix.t()) < 0.006


@pytest.mark.parametrize("n", [1, 40, 64, 100])
def test_any_number_of_outputs(n: int) -> None:
    weight = weight_of(n, 64)
    linear = make_quantized_linear(weight, None, 4)
    for tokens in TOKENS:
        x = activations(tokens, 64)
        assert linear(x).shape == (tokens, n)
        assert relative_error(linear(x), x.float() @ weight.float().t()) < 0.25


@pytest.mark.parametrize("k", [8, 15, 16, 24, 48, 72, 80])
def test_any_number_of_inputs_in_eight_bits(k: int) -> None:
    weight = weight_of(48, k)
    linear = make_quantized_linear(weight, None, 8)
    for tokens in TOKENS:
        x = activations(tokens, k)
        assert relative_error(linear(x), x.float() @ weight.float().t()) < 0.03


def test_inputs_that_groups_cannot_divide_get_eight_bits(caplog: pytest.LogCaptureFixture) -> None:
    weight = weight_of(64, 72)
    with caplog.at_level(logging.INFO):
        linear = make_quantized_linear(weight, None, 4)
    assert "72 inputs, not a multiple of 32, gets 8 bits" in caplog.text
    x = activations(3, 72)
    assert relative_error(linear(x), x.float() @ weight.float().t()) < 0.01


def test_resident_bytes() -> None:
    weight = weight_of(192, 576)
    bias = weight_of(1, 192)[0]
    assert make_quantized_linear(weight, None, 8).resident_bytes == 192 * 576 + 192 * 2
    assert make_quantized_linear(weight, None, 4).resident_bytes <= 0.33 * weight.nbytes
    with_bias = make_quantized_linear(weight, bias, 8).resident_bytes
    assert with_bias == 192 * 576 + 2 * 192 * 2


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_of_zeros_stay_zero(bits: Literal[4, 8]) -> None:
    weight = weight_of(64, 64)
    weight[3] = 0
    linear = make_quantized_linear(weight, None, bits)
    for tokens in TOKENS:
        y = linear(activations(tokens, 64))
        assert (y[:, 3] == 0).all()
        assert y.isfinite().all()


@pytest.mark.parametrize("bits", [8, 4])
def test_residual_is_added(bits: Literal[4, 8]) -> None:
    linear = make_quantized_linear(weight_of(64, 64), weight_of(1, 64)[0], bits)
    x, residual = activations(5, 64), activations(6, 64)[1:]
    expected = residual.clone() + linear(x)
    torch.testing.assert_close(linear.add(x, residual), expected)


def test_without_the_processors_kernels_the_answer_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The form that other devices use, run on the CPU by taking its kernels away."""
    x = activations(7, 64, torch.float32)
    weight = weight_of(128, 64, torch.float32)
    expected = make_quantized_linear(weight, None, 4)(x)
    monkeypatch.setattr(
        torch.ops.aten, "_convert_weight_to_int4pack_for_cpu", quantized._pack, raising=False
    )
    monkeypatch.setattr(quantized, "_kernel_block", lambda: 64)
    packed = quantized._Groups4(weight)
    torch.testing.assert_close(packed.unpacked(x), expected, atol=1e-5, rtol=1e-4)


def test_the_processors_layout_is_known() -> None:
    assert quantized._kernel_block() in (32, 64)


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="int64 cannot be quantised"):
        make_quantized_linear(torch.ones(64, 64, dtype=torch.int64), None, 8)
