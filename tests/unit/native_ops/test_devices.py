"""Where tensors lie: the CPU takes the compiled kernels, a GPU the references, meta the fakes.

The tests that need a GPU are skipped where there is none, under CI too, which has none. What is
sure without one: that the entry of the dispatch table which CUDA tensors take is the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from native_ops.operators import REFERENCES
from tests.unit.native_ops.operator_arguments import OPERATORS, good, implementation

computed = torch._C._dispatch_has_computed_kernel_for_dispatch_key
has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
TOLERANCE = {"decoder_step": 2e-2, "packed_linear": 2e-3, "encoder_forward": 1e-4}
"""The first two quantise activations or round the cache where they are compiled."""


def moved(value: Any, device: str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return [tensor.to(device) for tensor in value] if isinstance(value, list) else value


def outcome(
    call: Callable[..., Any], arguments: dict[str, Any], mutable: bool
) -> list[torch.Tensor]:
    """All that an operator gives or changes."""
    result = call(*arguments.values())
    parts = result if isinstance(result, list | tuple) else [result]
    given = [t for part in parts for t in (part if isinstance(part, list) else [part])]
    changed = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
    return [t for t in given if t is not None] + (changed if mutable else [])


def is_mutable(operator: str) -> bool:
    mutable: bool = getattr(torch.ops.ironcliw, operator).default._schema.is_mutable
    return mutable


def assert_alike(operator: str, found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    tolerance = TOLERANCE.get(operator, 1e-5)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one.cpu(), other, atol=tolerance, rtol=tolerance, equal_nan=True)


@pytest.mark.parametrize("key", ["CUDA", "MPS", "XPU"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_other_devices_take_the_reference(operator: str, key: str) -> None:
    name = f"ironcliw::{operator}"
    assert not has_kernel(name, key), "a kernel of this device's own would need tests of its own"
    assert computed(name, key), "neither a kernel nor a reference"


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_cuda_tensors_take_gives_what_the_kernels_give(operator: str) -> None:
    packet = getattr(torch.ops.ironcliw, operator).default
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)

    def as_cuda(*arguments: Any) -> Any:
        return packet.redispatch(keys, *arguments)

    mutable = is_mutable(operator)
    expected = outcome(implementation("compiled", operator), good(operator), mutable)
    assert_alike(operator, outcome(as_cuda, good(operator), mutable), expected)


def test_the_entry_of_cuda_is_the_reference_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def watched(value: Any) -> list[torch.Tensor]:
        calls.append(value)
        return []

    monkeypatch.setattr("native_ops.checks._tensors", watched)  # what it runs first
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    torch.ops.ironcliw.rms_norm.default.redispatch(keys, *good("rms_norm").values())
    assert len(calls) == len(good("rms_norm"))
    torch.ops.ironcliw.rms_norm.default(*good("rms_norm").values())
    assert len(calls) == len(good("rms_norm")), "the CPU takes it too"


@pytest.mark.parametrize("operator", OPERATORS)
def test_on_meta_there_are_shapes_alone(operator: str) -> None:
    arguments = {name: moved(value, "meta") for name, value in good(operator).items()}
    mutable = is_mutable(operator)
    found = outcome(implementation("compiled", operator), arguments, mutable)
    expected = outcome(REFERENCES[operator], good(operator), mutable)
    assert [(t.device.type, t.shape, t.dtype) for t in found] == [
        ("meta", t.shape, t.dtype) for t in expected
    ]


def present(device: str) -> bool:
    return torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_results_on_a_gpu_are_those_of_the_cpu(operator: str, device: str) -> None:
    if not present(device):
        pytest.skip(f"this machine has no {device} device; run it where there is one")
    if device == "mps" and operator == "sample_tokens":
        pytest.skip("MPS has no float64, in which the numbers of a draw are")
    arguments = {name: moved(value, device) for name, value in good(operator).items()}
    mutable = is_mutable(operator)
    found = outcome(implementation("compiled", operator), arguments, mutable)
    assert all(t.device.type == device for t in found)
    expected = outcome(implementation("compiled", operator), good(operator), mutable)
    assert_alike(operator, found, expected)
