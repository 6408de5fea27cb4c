"""The encoder's operators: every level and the reference against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from native_ops import encoder as ops
from native_ops.encoder_checks import INT8_INPUTS
from native_ops.encoder_layout import pack, unpack
from tests.unit.native_ops.levels import REFERENCE, on_each_level
from tests.unit.native_ops.operator_arguments import starts

NUMBERS = ("float32", "bfloat16", "int8")
# bf16 and int8 round activations too, where products are of them
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "int8": 5e-2}
REFERENCES: dict[str, Callable[..., Any]] = {
    "encoder_pack": pack,
    "encoder_linear": ops.encoder_linear_reference,
    "packed_attention": ops.packed_attention_reference,
    "pool_texts": ops.pool_texts_reference,
    "encoder_forward": ops.encoder_forward_reference,
}


def call(backend: str, name: str, *arguments: Any) -> Any:
    """An operator at the level that was chosen, or its reference."""
    return (REFERENCES[name] if backend == REFERENCE else getattr(ops, name))(*arguments)


def attention64(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int], heads: int, scale: float
) -> torch.Tensor:
    return cross_attention64(q, k, v, lengths, lengths, heads, scale, False)


def cross_attention64(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    queries: list[int],
    keys: list[int],
    heads: int,
    scale: float,
    causal: bool,
) -> torch.Tensor:
    """With the textbook's formula; the last query of a text is at its last key."""
    parts = []
    split = (torch.split(x, sizes) for x, sizes in ((q, queries), (k, keys), (v, keys)))
    for rows in zip(*split, strict=True):
        one, two, three = (x.double().reshape(len(x), heads, -1).transpose(0, 1) for x in rows)
        scores = one @ two.transpose(1, 2) * scale
        count, width = scores.shape[1:]
        if causal:
            place = torch.arange(count)[:, None] + width - count
            scores = scores.masked_fill(torch.arange(width) > place, -torch.inf)
        parts.append((scores.softmax(2) @ three).transpose(0, 1).flatten(1))
    return torch.cat(parts) if parts else q.double()


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("shape", [(1, 1), (33, 31), (64, 96), (7, 130)])
def test_packing_is_the_same_everywhere_and_only_rounds(
    backend: str, number: str, shape: tuple[int, int]
) -> None:
    weight = torch.randn(shape)
    packed = call(backend, "encoder_pack", weight, number)
    assert torch.equal(packed, pack(weight, number))
    if number == "int8":
        step = weight.abs().amax(1, keepdim=True) / 127
        assert ((unpack(packed, number, *shape) - weight).abs() <= step * 0.50001).all()
    else:
        rounded = weight.to(getattr(torch, number)).float()
        assert torch.equal(unpack(packed, number, *shape), rounded)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(0, 8, 8), (1, 1, 1), (37, 70, 65)])
def test_linear(
    backend: str, number: str, activation: str, rows: int, outputs: int, inputs: int
) -> None:
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    packed = pack(weight, number)
    y = call(backend, "encoder_linear", x, packed, bias, activation, number)
    rounded = unpack(packed, number, outputs, inputs).double()
    product = x.double() @ rounded.t() + bias
    expected = ops.activated(product, activation)
    scale = TOLERANCE[number] * (1 + inputs**0.5)
    torch.testing.assert_close(y.double(), expected, atol=scale, rtol=TOLERANCE[number])


def test_int8_sums_of_as_many_inputs_as_are_allowed_do_not_overflow(backend: str) -> None:
    """Even with weights of -128, which packing never makes."""
    inputs = INT8_INPUTS
    packed = pack(torch.ones(1, inputs), "int8")
    scales = packed[-128:].clone()
    packed.fill_(128)
    packed[-128:] = scales
    x = torch.tensor([[1.0], [-1.0]]).expand(2, inputs)
    y = call(backend, "encoder_linear", x, packed, torch.zeros(1), "none", "int8")
    expected = torch.tensor([[-128.0], [128.0]]) * inputs / 127
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=0)


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), max_size=6),
    heads=st.integers(1, 3),
    width=st.integers(1, 70),
)
def test_attention_of_any_shape(lengths: list[int], heads: int, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    joined = torch.randn(sum(lengths), 3 * heads * width, generator=generator)
    q, k, v = joined.chunk(3, 1)
    cu = starts(lengths)
    expected = attention64(q, k, v, lengths, heads, 0.3)
    for y in on_each_level(lambda: ops.packed_attention(q, k, v, cu, cu, heads, 0.3, False)):
        torch.testing.assert_close(y.double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[], [1], [4096], [3, 1, 200, 17, 32]])
def test_attention(backend: str, dtype: torch.dtype, lengths: list[int]) -> None:
    q, k, v = torch.randn(sum(lengths), 3 * 32).to(dtype).chunk(3, 1)
    cu = starts(lengths)
    y = call(backend, "packed_attention", q, k, v, cu, cu, 1, 32**-0.5, False)
    assert y.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1.5e-2
    expected = attention64(q, k, v, lengths, 1, 32**-0.5)
    torch.testing.assert_close(y.double(), expected, atol=tolerance, rtol=tolerance)


def test_attention_with_fewer_queries_and_a_mask(backend: str) -> None:
    heads, queries, keys = 2, [1, 5, 40], [7, 5, 60]
    q, k, v = torch.randn(46, 20), torch.randn(72, 20), torch.randn(72, 20)
    cu = (starts(queries), starts(keys))
    y = call(backend, "packed_attention", q, k, v, *cu, heads, 0.4, True)
    expected = cross_attention64(q, k, v, queries, keys, heads, 0.4, True)
    torch.testing.assert_close(y.double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e4])
def test_attention_of_extreme_scores(backend: str, scale: float) -> None:
    q, k, v = torch.randn(40, 96).chunk(3, 1)
    cu = starts([40])
    y = call(backend, "packed_attention", q, k, v, cu, cu, 1, scale, False)
    torch.testing.assert_close(
        y.double(), attention64(q, k, v, [40], 1, scale), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_stays_in_its_text(backend: str, dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(9, 64).to(dtype) for _ in range(3))
    k[4, 3] = torch.nan  # the second text's
    cu = starts([3, 4, 2])
    y = call(backend, "packed_attention", q, k, v, cu, cu, 2, 0.2, False)
    assert y[3:7, :32].isnan().all()
    assert not y[:3].isnan().any()
    assert not y[7:].isnan().any()
    pooled = call(backend, "pool_texts", y, cu, "mean", True)
    assert pooled[1].isnan().all()
    assert not pooled[[0, 2]].isnan().any()


@pytest.mark.parametrize("mode", ops.POOLINGS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("lengths", [[], [1], [5, 1, 300]])
def test_pooling(backend: str, mode: str, normalize: bool, lengths: list[int]) -> None:
    hidden = torch.randn(sum(lengths), 2 * 21)[:, ::2]
    y = call(backend, "pool_texts", hidden, starts(lengths), mode, normalize)
    assert y.shape == (len(lengths), 21)
    if not lengths:
        return
    for row, text in zip(y, torch.split(hidden.double(), lengths), strict=True):
        weights = torch.arange(1, len(text) + 1).double()
        expected = {
            "mean": text.mean(0),
            "cls": text[0],
            "max": text.amax(0),
            "lasttoken": text[-1],
            "mean_sqrt_len_tokens": text.sum(0) / len(text) ** 0.5,
            "weightedmean": (weights @ text) / weights.sum(),
        }[mode]
        if normalize:
            expected = expected / expected.norm()
        torch.testing.assert_close(row.double(), expected, atol=1e-5, rtol=1e-5)
