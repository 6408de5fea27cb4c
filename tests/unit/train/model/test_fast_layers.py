"""Modules computed by the compiled operators against transformers' own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from native_ops import binary
from tests.unit.train.tiny import make_data, make_model
from train.config import make_config
from train.data.plan import MicroBatch, pack
from train.loop.compute import Computer
from train.model.adapters import add_adapters, trainable
from train.model.fast_layers import replace_forwards
from train.model.fused import fuse
from train.model.layer_calls import AttentionCall, GatedCall, LayerCall, NormCall
from train.model.load import load_base

CPU = torch.device("cpu")
BATCH = MicroBatch((0, 1, 2), 0, 0)
KINDS = ("llama", "mistral", "qwen2", "qwen3")
PARTS = {"llama": 11, "mistral": 11, "qwen2": 11, "qwen3": 15}
"""Two layers with two norms, attention, MLP and themselves, the last norm; Qwen3's head norms."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make_model(tmp_path_factory.mktemp(kind), kind) for kind in (*KINDS, "gpt2")}


def made(
    folder: Path, dtype: torch.dtype = torch.float32, lora: bool = True, **changes: Any
) -> Any:
    """A model whose norms and adapters are not where they begin."""
    quantization = "nf4" if changes.pop("nf4", False) else None
    base = load_base("tiny", folder, "", dtype, CPU, quantization)
    config = make_config({"model_name": "tiny", "lora_rank": 4, **changes}, "test")
    model = add_adapters(base, config) if lora else base.module
    numbers = torch.Generator().manual_seed(1)
    for name, each in model.named_parameters():
        if "lora_B" in name or "norm" in name:
            each.data = (each + 0.3 * torch.randn(each.shape, generator=numbers)).to(each.dtype)
    return model


def loss_and_gradients(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(0)  # of dropout
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


def calls(model: Any, kind: type) -> int:
    return sum(isinstance(module.__dict__.get("forward"), kind) for module in model.modules())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_same_loss_and_gradients(kind: str, dropout: float, folders: dict[str, Path]) -> None:
    plain, fast = (made(folders[kind], lora_dropout=dropout) for _ in range(2))
    fuse(plain)
    fuse(fast)
    assert replace_forwards(fast, torch.float32, CPU) == PARTS[kind]
    counts = [calls(fast, each) for each in (NormCall, GatedCall, AttentionCall, LayerCall)]
    assert counts == [PARTS[kind] - 6, 2, 2, 2]
    assert_same(fast, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_all_weights_trained(kind: str, folders: dict[str, Path]) -> None:
    plain, fast = (made(folders[kind], lora=False) for _ in range(2))
    assert replace_forwards(fast, torch.float32, CPU) == PARTS[kind]
    assert_same(fast, plain)


def test_four_bits(folders: dict[str, Path]) -> None:
    plain, fast = (made(folders["llama"], nf4=True) for _ in range(2))
    assert replace_forwards(fast, torch.float32, CPU) == PARTS["llama"]
    assert_same(fast, plain)


def test_checkpointing_changes_no_gradient(folders: dict[str, Path]) -> None:
    plain, fast = (made(folders["llama"]) for _ in range(2))
    fuse(fast)
    replace_forwards(fast, torch.float32, CPU)
    fast.get_base_model().activation_checkpointing_enable()
    counted: list[int] = []
    fast.get_base_model().model.layers[0].mlp.register_forward_pre_hook(
        lambda *_: counted.append(1)
    )
    assert_same(fast, plain)
    assert len(counted) == 2, "the layer was not computed again"


def test_bfloat16_is_about_as_far_from_float32_as_before(folders: dict[str, Path]) -> None:
    def flat(model: Any) -> torch.Tensor:
        _, found = loss_and_gradients(model)
        return torch.cat([found[name].flatten() for name in sorted(found)])

    exact = flat(made(folders["qwen3"]))
    plain, fast = (made(folders["qwen3"], torch.bfloat16) for _ in range(2))
    assert replace_forwards(fast, torch.bfloat16, CPU) == PARTS["qwen3"]
    ours, theirs = ((flat(model) - exact).norm() for model in (fast, plain))
    # either is the nearer one by chance
    assert 0 < ours <= 1.5 * theirs < 0.2 * exact.norm()


def test_evaluation_gives_the_same(folders: dict[str, Path]) -> None:
    plain, fast = (made(folders["qwen3"]) for _ in range(2))
    replace_forwards(fast, torch.float32, CPU)
    batch = pack(make_data(), BATCH)
    losses = []
    for model in (plain, fast):
        with torch.no_grad():
            computer = Computer(model, CPU)
            computer.set_training(False)
            losses.append(float(computer.loss_sum(batch)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_window_shorter_than_a_row_is_the_module_s_own_business(
    folders: dict[str, Path],
) -> None:
    plain, fast = (made(folders["mistral"]) for _ in range(2))
    for model in (plain, fast):
        model.get_base_model().config.sliding_window = 3
    assert replace_forwards(fast, torch.float32, CPU) == PARTS["mistral"]
    assert_same(fast, plain)


def test_a_model_of_another_form_keeps_its_code(folders: dict[str, Path]) -> None:
    model = made(folders["gpt2"])
    assert replace_forwards(model, torch.float32, CPU) == 0


class OffsetRMSNorm(torch.nn.Module):
    """As Gemma's: it looks like the others, and multiplies by 1 + weight."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.weight, self.eps = like.weight, like.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        made: torch.Tensor = x * scale * (1 + self.weight)
        return made


def test_a_module_that_gives_something_else_keeps_its_code(folders: dict[str, Path]) -> None:
    plain, fast = (made(folders["llama"]) for _ in range(2))
    for model in (plain, fast):
        layer = model.get_base_model().model.layers[0]
        layer.input_layernorm = OffsetRMSNorm(layer.input_layernorm)
        layer.mlp.act_fn = torch.nn.GELU()
    # neither that norm, nor that MLP, nor the layer that would add before the norm
    assert replace_forwards(fast, torch.float32, CPU) == PARTS["llama"] - 3
    assert_same(fast, plain)


def test_another_scale_of_the_residual_is_seen(folders: dict[str, Path]) -> None:
    """As Granite's, whose layers have the parts of Llama's."""
    model = made(folders["llama"])
    layer = model.get_base_model().model.layers[1]
    own = layer.forward
    layer.forward = lambda *given, **named: 0.5 * own(*given, **named)
    assert replace_forwards(model, torch.float32, CPU) == PARTS["llama"] - 1


def test_torch_s_generator_and_the_mode_are_as_before(folders: dict[str, Path]) -> None:
    model = made(folders["llama"], lora_dropout=0.2)
    before = torch.get_rng_state()
    replace_forwards(model, torch.float32, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())


def test_nothing_is_replaced_without_kernels(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(folders["llama"])
    assert replace_forwards(model, torch.float32, torch.device("cuda")) == 0
    monkeypatch.setattr(binary, "load", lambda: None)
    assert replace_forwards(model, torch.float32, CPU) == 0
