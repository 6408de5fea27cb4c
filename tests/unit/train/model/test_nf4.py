from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from train.model.nf4 import BLOCK, LEVELS, Nf4Linear, dequantize, quantize, quantize_layers


def test_levels_are_kept_exactly() -> None:
    scale = 3.0
    weight = torch.tensor(LEVELS).repeat(BLOCK // len(LEVELS)).view(1, BLOCK) * scale
    codes, scales = quantize(weight)
    assert codes.dtype == torch.uint8
    assert codes.shape == (BLOCK // 2,)
    assert scales.tolist() == [scale]
    assert torch.equal(dequantize(codes, scales, weight.shape, torch.float32), weight)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 64), (33, 65), (0, 4)])
def test_every_number_takes_the_nearest_level(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape) * 0.02
    found = dequantize(*quantize(weight), weight.shape, torch.float32)
    assert found.shape == weight.shape
    flat, kept = weight.reshape(-1), found.reshape(-1)
    for first in range(0, len(flat), BLOCK):
        block = flat[first : first + BLOCK]
        levels = torch.tensor(LEVELS) * block.abs().max()
        nearest = (block[:, None] - levels).abs().amin(1)
        assert torch.allclose((block - kept[first : first + BLOCK]).abs(), nearest, atol=1e-9)


def test_zeros_stay_zeros() -> None:
    weight = torch.zeros(2, BLOCK)
    assert torch.equal(dequantize(*quantize(weight), weight.shape, torch.float32), weight)


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        quantize(torch.tensor([[1.0, float("nan")]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_and_backward_are_those_of_the_unpacked_weight(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer = Nf4Linear(torch.nn.Linear(40, 24))
    layer.bias.data = layer.bias.data.to(dtype)
    x = torch.randn(2, 5, 40, dtype=dtype, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    gradient = torch.randn(2, 5, 24, dtype=dtype)
    plain = F.linear(twin, layer.unpacked(dtype), layer.bias)
    made = layer(x)
    made.backward(gradient)
    plain.backward(gradient)
    assert torch.equal(made, plain)
    assert x.grad is not None
    assert twin.grad is not None
    assert torch.equal(x.grad, twin.grad)


def test_evaluation_between_steps_changes_nothing() -> None:
    layer = Nf4Linear(torch.nn.Linear(64, 8))
    x = torch.randn(3, 64, requires_grad=True)
    before = layer(x)
    layer.eval()
    with torch.no_grad():
        layer(x)
    layer.train()
    after = layer(x)
    assert torch.equal(before, after)
    after.sum().backward()
    assert x.grad is not None


def test_the_head_is_spared() -> None:
    head = torch.nn.Linear(8, 8)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), head)
    assert quantize_layers(model, head) == 1
    assert isinstance(model[0], Nf4Linear)
    assert model[2] is head
    assert "weight" in dict(model[0].named_buffers())
    assert not any(each is model[0].weight for each in model.parameters())
