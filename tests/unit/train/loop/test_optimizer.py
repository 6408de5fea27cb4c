"""One vector against torch's AdamW over separate parameters; state that is put back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ironcliw.errors import CheckpointError, SettingsError
from train.config import TrainingConfig, make_config
from train.loop.flat import FlatParameters
from train.loop.optimizer import Optimizer

SHAPES = {"a": (5, 3), "b": (7,), "c": (2, 2, 2)}
RATES = (1e-2, 3e-3, 5e-3, 0.0, 2e-2)


def config(**changes: Any) -> TrainingConfig:
    return make_config({"model_name": "tiny", **changes}, "test")


def parameters() -> dict[str, torch.nn.Parameter]:
    made = torch.Generator().manual_seed(0)
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=made))
        for name, shape in SHAPES.items()
    }


def gradient(step: int, size: int) -> torch.Tensor:
    made = torch.Generator().manual_seed(1000 + step)
    # some norms are above 1 after the division, some below
    return torch.randn(size, generator=made) * (40.0 if step % 2 else 2.0)


def make(**changes: Any) -> tuple[FlatParameters, Optimizer]:
    flat = FlatParameters(parameters().items())
    return flat, Optimizer(flat, config(**changes))


def go(flat: FlatParameters, optimizer: Optimizer, steps: range) -> list[float]:
    norms = []
    for step in steps:
        flat.gradient.copy_(gradient(step, len(flat)))
        norms.append(optimizer.step(RATES[step], divisor=17.0))
    return norms


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_adamw_over_separate_parameters(clip: float | None, decay: float) -> None:
    flat, optimizer = make(clip_norm=clip, weight_decay=decay, beta1=0.8, beta2=0.95, epsilon=1e-6)
    separate = parameters()
    theirs = torch.optim.AdamW(
        separate.values(), lr=1.0, betas=(0.8, 0.95), eps=1e-6, weight_decay=decay, fused=False
    )
    norms, expected = go(flat, optimizer, range(5)), []
    for step in range(5):
        views = flat.named(gradient(step, len(flat)) / 17.0)
        for name, each in separate.items():
            each.grad = views[name].clone()
        most = float("inf") if clip is None else clip
        expected.append(float(torch.nn.utils.clip_grad_norm_(separate.values(), most)))
        theirs.param_groups[0]["lr"] = RATES[step]
        theirs.step()
    assert norms == pytest.approx(expected, rel=1e-5)
    assert min(norms) < 1.0 < max(norms)
    for name, view in flat.named().items():
        torch.testing.assert_close(view, separate[name].data, rtol=1e-5, atol=1e-6)


def test_a_restored_one_goes_on_with_the_same_bits() -> None:
    whole, optimizer = make()
    go(whole, optimizer, range(5))
    first, before = make()
    go(first, before, range(2))
    tensors = {name: each.clone() for name, each in before.tensors().items()}
    assert {"optimizer/exp_avg", "optimizer/exp_avg_sq", "optimizer/step"} <= tensors.keys()
    second, after = make()
    second.values.copy_(first.values)
    after.restore(tensors, before.numbers())
    go(second, after, range(2, 5))
    assert second.values.numpy().tobytes() == whole.values.numpy().tobytes()
    # what was put back is a copy: the checkpoint's own tensors did not move
    assert torch.equal(tensors["optimizer/exp_avg"], before.tensors()["optimizer/exp_avg"])
    assert float(tensors["optimizer/step"]) == 2


def test_without_its_state_the_bits_differ() -> None:
    """The test above would see a restore that does nothing."""
    whole, optimizer = make()
    go(whole, optimizer, range(5))
    first, before = make()
    go(first, before, range(2))
    second, after = make()
    second.values.copy_(first.values)
    go(second, after, range(2, 5))
    assert not torch.equal(second.values, whole.values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_gradient_that_is_no_number_changes_nothing(bad: float) -> None:
    flat, optimizer = make()
    go(flat, optimizer, range(2))
    values = flat.values.clone()
    state = {name: each.clone() for name, each in optimizer.tensors().items()}
    flat.gradient.copy_(gradient(2, len(flat)))
    flat.gradient[3] = bad
    norm = optimizer.step(1e-2, 17.0)
    assert norm != norm or norm == float("inf")
    assert torch.equal(flat.values, values)
    assert all(torch.equal(each, state[name]) for name, each in optimizer.tensors().items())


def test_a_state_of_another_length_is_refused() -> None:
    _, optimizer = make()
    with pytest.raises(CheckpointError, match="exp_avg has 4 numbers, and the run trains 30"):
        optimizer.restore({"optimizer/exp_avg": torch.zeros(4)}, {})


def test_nothing_is_saved_before_the_first_step() -> None:
    flat, optimizer = make()
    assert optimizer.tensors() == {}
    other, restored = make()
    restored.restore({"weights/a": torch.zeros(3)}, {})
    go(flat, optimizer, range(2))
    go(other, restored, range(2))
    assert torch.equal(flat.values, other.values)


def test_eight_bits_need_cuda() -> None:
    with pytest.raises(SettingsError, match="'adamw8bit', which needs CUDA"):
        make(optimizer="adamw8bit")
