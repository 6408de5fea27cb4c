"""The precision that is chosen on a CPU is one that the level of the compiled kernels has."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import pytest
import torch

from native_ops import binary
from serve.engines import encoder
from serve.engines.encoder import choose_precision
from serve.engines.native_stack import native_suits
from tests.unit.native_ops.levels import LEVELS, choose

CPU = torch.device("cpu")
MEASURED = {"avx2", "avx512", "avx512_bf16", "amx"}
"""Levels at which the encoder's kernels are ahead of PyTorch in some precision besides int8."""


@pytest.fixture(autouse=True)
def torch_has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So that a machine without bf16 tests the levels too; the highest is back at the end."""
    monkeypatch.setattr(encoder, "_torch_has_bfloat16", lambda: True)
    yield
    binary.choose_level("")


@pytest.mark.parametrize(
    ("level", "machine", "expected"),
    [
        ("baseline", "x86_64", torch.float32),
        ("avx2", "x86_64", torch.float32),
        ("avx512", "AMD64", torch.float32),
        ("avx512_bf16", "x86_64", torch.bfloat16),
        ("amx", "x86_64", torch.bfloat16),
        ("baseline", "aarch64", torch.bfloat16),
        ("neon", "arm64", torch.bfloat16),
        ("neon_i8mm", "aarch64", torch.bfloat16),
        (None, "x86_64", torch.bfloat16),
    ],
)
def test_a_level_without_bf16_products_gives_float32(
    monkeypatch: pytest.MonkeyPatch, level: str | None, machine: str, expected: torch.dtype
) -> None:
    monkeypatch.setattr(binary, "state", lambda: binary.NativeState(level))
    monkeypatch.setattr(platform, "machine", lambda: machine)
    for wanted in ("auto", "int8"):
        assert choose_precision(CPU, wanted) == expected


@pytest.mark.parametrize("level", LEVELS)
def test_at_every_level_of_this_machine_the_kernels_compute_what_is_chosen(level: str) -> None:
    choose(level)
    assert native_suits(CPU, choose_precision(CPU, "auto")) == (level in MEASURED)


@pytest.mark.parametrize("level", LEVELS)
def test_a_precision_that_is_named_is_used_at_every_level(level: str) -> None:
    choose(level)
    assert choose_precision(CPU, "bfloat16") == torch.bfloat16
