from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ironcliw.errors import SettingsError
from tests.unit.train.tiny import make_model
from train.model.load import load_base
from train.model.nf4 import BLOCK, LEVELS, Nf4Linear, Workspace, dequantize, quantize
from train.model.packing import pack_layers


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_unpacked_one_after_the_other_in_the_same_memory(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    space = Workspace()
    large, small = (Nf4Linear(torch.nn.Linear(width, 24)) for width in (96, 40))
    places = set()
    for layer in (large, small, large):
        found = layer.unpacked(dtype, space)
        assert torch.equal(found, layer.unpacked(dtype))
        places.add(found.data_ptr())
    assert len(places) == 1


def test_a_later_layer_leaves_the_gradients_of_an_earlier_one() -> None:
    torch.manual_seed(3)
    layers = [Nf4Linear(torch.nn.Linear(*sizes)) for sizes in ((40, 64), (64, 8), (8, 24))]
    x = torch.randn(5, 40, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    made, plain = x, twin
    for layer in layers:
        made = torch.tanh(layer(made))
        plain = torch.tanh(F.linear(plain, layer.unpacked(torch.float32), layer.bias))
    made.sum().backward()
    plain.sum().backward()
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
    model.get_output_embeddings = lambda: head  # type: ignore[assignment]
    assert pack_layers(model, "nf4", torch.bfloat16, torch.device("cpu")) == 1
    assert isinstance(model[0], Nf4Linear)
    assert model[2] is head
    assert "weight" in dict(model[0].named_buffers())
    assert not any(each is model[0].weight for each in model.parameters())
    # all else is in the run's precision, and the scales are not
    assert head.weight.dtype == torch.bfloat16
    assert model[0].scales.dtype == torch.float32


def test_the_librarys_kernels_need_cuda_and_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    with pytest.raises(SettingsError, match="'nf4_bitsandbytes', which needs CUDA, and"):
        pack_layers(model, "nf4_bitsandbytes", torch.float32, torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SettingsError, match=r"bitsandbytes is not installed: pip install 'ironcl"):
        pack_layers(model, "nf4_bitsandbytes", torch.float32, torch.device("cuda"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_packed_from_the_precision_of_its_files(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    folder = make_model(tmp_path)
    cpu = torch.device("cpu")
    packed = load_base("m", folder, "", dtype, cpu, "nf4").module
    plain = load_base("m", folder, "", torch.float32, cpu).module
    codes, scales = quantize(plain.model.layers[0].mlp.up_proj.weight)
    found = packed.model.layers[0].mlp.up_proj
    assert torch.equal(found.weight, codes)
    assert torch.equal(found.scales, scales)
    assert {each.dtype for each in packed.parameters()} == {dtype}
    assert packed.model.rotary_emb.inv_freq.dtype == torch.float32
    assert packed.get_output_embeddings().weight is packed.get_input_embeddings().weight
