"""Adapted layers computed together against peft's own, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.train.tiny import make_data, make_model
from train.config import make_config
from train.data.plan import MicroBatch, pack
from train.loop.compute import Computer
from train.model.adapters import add_adapters, trainable
from train.model.fused import _Call, fits, fuse
from train.model.load import load_base

CPU = torch.device("cpu")
BATCH = MicroBatch((0, 1, 2), 0, 0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        kind: make_model(tmp_path_factory.mktemp(kind), kind)
        for kind in ("llama", "qwen2", "qwen3", "gpt2")
    }


def adapted(folder: Path, **changes: object) -> Any:
    """With adapters whose B is not zero, or the gradients of A would be."""
    base = load_base("tiny", folder, "", torch.float32, CPU)
    config = make_config({"model_name": "tiny", "lora_rank": 4, **changes}, "test")
    model = add_adapters(base, config)
    made = torch.Generator().manual_seed(1)
    for name, each in trainable(model):
        if "lora_B" in name:
            each.data = torch.randn(each.shape, generator=made) * 0.1
    # biases begin at zero: one that is forgotten would not be missed
    for name, each in model.named_parameters():
        if name.endswith("base_layer.bias"):
            each.data = torch.randn(each.shape, generator=made)
    return model


def loss_and_gradients(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = Computer(model, CPU).backward(pack(make_data(), BATCH))
    found: dict[str, torch.Tensor] = {}
    for name, each in trainable(model):
        assert each.grad is not None, name
        found[name] = each.grad.clone()
    return loss, found


def assert_same(model: Any, other: Any) -> None:
    (loss, found), (wanted_loss, wanted) = loss_and_gradients(model), loss_and_gradients(other)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert wanted[name].abs().max() > 0, name
        # by its norm: single numbers of it are differences of large ones
        assert (gradient - wanted[name]).norm() <= 1e-4 * wanted[name].norm(), name


def stashes(model: Any) -> list[Any]:
    calls = [module.__dict__.get("forward") for module in model.modules()]
    return [call._shared for call in calls if isinstance(call, _Call)]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("rslora", [False, True])
def test_the_same_loss_and_gradients(kind: str, rslora: bool, folders: dict[str, Path]) -> None:
    plain, fused = (adapted(folders[kind], use_rslora=rslora) for _ in range(2))
    # of each of two layers: q, k and v; gate and up; o; down
    assert fuse(fused) == 8
    assert len(stashes(fused)) == 14
    assert_same(fused, plain)


def test_biases_are_added(folders: dict[str, Path]) -> None:
    model = adapted(folders["qwen2"])
    fuse(model)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    x = torch.zeros(1, 1, 32)
    assert layer.base_layer.bias.abs().max() > 0
    assert torch.equal(layer(x)[0, 0], layer.base_layer.bias)


def test_the_scale_is_rslora_s(folders: dict[str, Path]) -> None:
    """alpha / sqrt(rank), not alpha / rank."""
    model = adapted(folders["llama"], use_rslora=True, lora_alpha=8)
    fuse(model)
    assert {shared._scale for shared in stashes(model)} == {8 / 2.0}


def test_some_targets_only(folders: dict[str, Path]) -> None:
    plain, fused = (adapted(folders["llama"], lora_targets=["q_proj", "v_proj"]) for _ in range(2))
    assert fuse(fused) == 4  # q and v without k: each by itself
    assert_same(fused, plain)


def test_nothing_is_kept_after_a_pass(folders: dict[str, Path]) -> None:
    model = adapted(folders["llama"])
    fuse(model)
    loss_and_gradients(model)
    shared = stashes(model)
    assert shared
    assert all(not each._ready and each._input is None for each in shared)


def test_layers_called_otherwise_give_the_same(folders: dict[str, Path]) -> None:
    plain, fused = (adapted(folders["llama"]).get_base_model() for _ in range(2))
    fuse(fused)
    x, y = torch.randn(2, 1, 3, 32, generator=torch.Generator().manual_seed(2))
    ours, theirs = (model.model.layers[0].self_attn for model in (fused, plain))
    for name, given in [("v_proj", x), ("q_proj", y), ("q_proj", y), ("k_proj", x), ("v_proj", y)]:
        found, wanted = getattr(ours, name)(given), getattr(theirs, name)(given)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_checkpointing_changes_no_gradient(fused: bool, folders: dict[str, Path]) -> None:
    plain, checkpointed = (adapted(folders["llama"]) for _ in range(2))
    base = checkpointed.get_base_model()
    base.activation_checkpointing_enable()
    if fused:
        assert fuse(checkpointed) == 8
    calls: list[int] = []
    base.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    assert_same(checkpointed, plain)
    assert len(calls) == 2, "the layer was not computed again"
    assert all(not each._ready and each._input is None for each in stashes(checkpointed))


def test_dora_is_left_alone(folders: dict[str, Path]) -> None:
    plain, model = (adapted(folders["llama"], use_dora=True) for _ in range(2))
    assert fuse(model) == 0
    assert not stashes(model)
    assert_same(model, plain)


def test_conv1d_is_left_alone(folders: dict[str, Path]) -> None:
    plain, model = (adapted(folders["gpt2"]) for _ in range(2))
    assert fuse(model) == 0
    assert_same(model, plain)


def test_quantised_and_unfrozen_layers_are_left_alone(folders: dict[str, Path]) -> None:
    class Quantised(torch.nn.Linear):
        """As bitsandbytes has them: a kind of Linear whose weight is packed."""

    attention = adapted(folders["llama"]).get_base_model().model.layers[0].self_attn
    assert fits(attention.q_proj)
    attention.q_proj.base_layer = Quantised(32, 32, bias=False).requires_grad_(False)
    assert not fits(attention.q_proj)
    attention.v_proj.base_layer.weight.requires_grad_(True)
    assert not fits(attention.v_proj)
    assert fits(attention.k_proj)
    assert fuse(attention) == 2  # k and o


def test_different_scales_are_not_computed_together(folders: dict[str, Path]) -> None:
    plain, model = (adapted(folders["llama"]) for _ in range(2))
    for each in (plain, model):
        each.get_base_model().model.layers[0].self_attn.k_proj.scaling["default"] = 0.5
    assert fuse(model) == 10
    assert_same(model, plain)
