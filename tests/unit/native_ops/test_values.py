"""Values of the row operators against float64, over random shapes, on every level and in torch.

Empty input, one row, odd widths, rows of 4096, input that is not contiguous, values near the ends
of float32's range, and NaN, which must stay in its row.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from native_ops.encoder_layout import pack, unpack
from native_ops.operators import REFERENCES
from tests.unit.native_ops.levels import on_each_level
from tests.unit.native_ops.operator_arguments import implementation

WIDTHS = st.one_of(st.integers(1, 70), st.sampled_from([255, 256, 768, 1000, 4096]))
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])
# of a result that is rounded to the type
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 4e-3}


def each_level(operator: str, *arguments: Any) -> list[Any]:
    """An operator's result on each level and from its reference."""
    compiled = implementation("compiled", operator)
    return [REFERENCES[operator](*arguments), *on_each_level(lambda: compiled(*arguments))]


def draw_rows(rows: int, width: int, seed: int, spread: bool, power: int = 0) -> torch.Tensor:
    """Normal numbers times 10^power; `spread`: every other column of a wider tensor."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(rows, 2 * width, generator=generator) * 10.0**power
    return whole[:, ::2] if spread else whole[:, :width].contiguous()


def assert_within(found: list[Any], expected: torch.Tensor, allowed: torch.Tensor) -> None:
    """As near as allowed, and NaN where NaN is expected."""
    for one in found:
        assert one.shape == expected.shape
        assert torch.equal(one.isnan(), expected.isnan())
        assert ((one.double() - expected).abs() <= allowed)[~expected.isnan()].all()


def assert_values(found: list[Any], expected: torch.Tensor, tolerance: float) -> None:
    """Within the tolerance of each row's largest value."""
    largest = expected.nan_to_num().abs().amax(-1, keepdim=True) if expected.numel() else expected
    assert_within(found, expected, tolerance * largest + 1e-38)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 9),
    width=WIDTHS,
    dtype=DTYPES,
    power=st.integers(-12, 12),
    spread=st.booleans(),
    residual=st.booleans(),
    bad=st.booleans(),
)
def test_add_layer_norm(
    rows: int,
    width: int,
    dtype: torch.dtype,
    power: int,
    spread: bool,
    residual: bool,
    bad: bool,
) -> None:
    x = draw_rows(rows, width, 1, spread, power).to(dtype)
    if bad and rows:
        x[rows // 2, width // 2] = torch.nan
    added = draw_rows(rows, width, 2, spread, power).to(dtype) if residual else None
    weight, bias = draw_rows(2, width, 3, False).unbind(0)
    total = x.double() if added is None else x.double() + added.double()
    expected = F.layer_norm(total, (width,), weight.double(), bias.double(), 1e-5)
    found = each_level("add_layer_norm", x, added, weight, bias, 1e-5)
    assert all(one.dtype == dtype for one in found)
    if not rows:
        assert all(one.shape == (0, width) for one in found)
        return
    # float32 sums are off by a share of the largest number, which the deviation divides
    deviation = (total.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    sums = 1e-6 * total.abs().amax(1, keepdim=True) / deviation * weight.abs()
    largest = expected.abs() + bias.abs()
    assert_within(found, expected, sums + (1e-6 + ROUNDING[dtype]) * largest)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 9),
    width=WIDTHS,
    power=st.integers(-12, 12),
    spread=st.booleans(),
    bad=st.booleans(),
)
def test_rms_norm(rows: int, width: int, power: int, spread: bool, bad: bool) -> None:
    x = draw_rows(rows, width, 4, spread, power)
    if bad and rows:
        x[rows // 2, width // 2] = torch.nan
    weight = draw_rows(1, width, 5, False)[0]
    exact = x.double()
    scale = (exact.square().mean(1, keepdim=True) + 1e-6).rsqrt()
    assert_values(each_level("rms_norm", x, weight, 1e-6), exact * scale * weight, 3e-6)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 40), st.sampled_from([777, 4096])), max_size=5),
    width=st.one_of(st.integers(1, 70), st.sampled_from([384])),
    dtype=DTYPES,
    power=st.integers(-25, 25),
    spread=st.booleans(),
    bad=st.booleans(),
)
def test_mean_pooling_with_normalisation(
    lengths: list[int], width: int, dtype: torch.dtype, power: int, spread: bool, bad: bool
) -> None:
    hidden = (draw_rows(sum(lengths), width, 6, spread) + 0.5).mul(10.0**power).to(dtype)
    if bad and lengths:
        hidden[-1, 0] = torch.nan
    cu = torch.tensor([0, *lengths]).cumsum(0).int()
    texts = torch.split(hidden.double(), lengths)
    means = torch.stack([text.mean(0) for text in texts]) if texts else torch.zeros(0, width)
    assert_values(each_level("pool_texts", hidden, cu, "mean", False), means, 2e-5)
    expected = F.normalize(means, dim=1)
    if bad and lengths:
        expected[-1] = torch.nan  # its length is not known
    assert_values(each_level("pool_texts", hidden, cu, "mean", True), expected, 2e-5)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 40),
    outputs=st.integers(1, 80),
    inputs=st.one_of(st.integers(1, 130), st.sampled_from([768])),
    number=st.sampled_from(["float32", "bfloat16", "int8"]),
    spread=st.booleans(),
    bad=st.booleans(),
)
def test_encoder_linear(
    rows: int, outputs: int, inputs: int, number: str, spread: bool, bad: bool
) -> None:
    x = draw_rows(rows, inputs, 7, spread)
    if bad and rows:
        x[rows // 2, inputs // 2] = torch.nan
    packed = pack(draw_rows(outputs, inputs, 8, False), number)
    bias = draw_rows(1, outputs, 9, False)[0]
    weight = unpack(packed, number, outputs, inputs).double()
    expected = F.gelu(x.double() @ weight.t() + bias)
    found = each_level("encoder_linear", x, packed, bias, "gelu", number)
    # bfloat16 and int8 round activations too, where products are of them
    step = {"float32": 2e-6, "bfloat16": 8e-3, "int8": 1e-2}[number]
    allowed = step * (1 + x.nan_to_num().double().abs() @ weight.abs().t())
    if number == "int8" and rows:
        allowed += step * x.nan_to_num().abs().amax(1, keepdim=True) * weight.abs().sum(1)
    assert_within(found, expected, allowed)


def kept_mass(row: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Shares of a row of logits, float64, 0 for what top_k and then top_p leave out."""
    shares, ids = row.softmax(0).sort(descending=True, stable=True)
    if top_k:
        shares[top_k:] = 0
    before = shares.cumsum(0) - shares
    shares[before >= top_p * shares.sum()] = 0
    return torch.zeros_like(row).scatter(0, ids, shares)


@settings(max_examples=40, deadline=None)
@given(
    width=st.one_of(st.integers(1, 90), st.sampled_from([1000, 4096])),
    number=st.floats(0, 1, exclude_max=True),
    temperature=st.sampled_from([0.1, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 5, 40]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    seed=st.integers(0, 99),
)
def test_the_drawn_token_is_the_one_at_that_share_of_the_mass(
    width: int, number: float, temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    logits = 3 * torch.randn(1, width, generator=torch.Generator().manual_seed(seed))
    kept = kept_mass(logits[0].double() / temperature, top_k, top_p)
    filtered = (top_k and top_k < width) or top_p < 1
    order = kept.sort(descending=True, stable=True).indices if filtered else torch.arange(width)
    ends = kept[order].cumsum(0) / kept.sum()
    for tokens, normaliser, _ in each_level(
        "sample_tokens", *plain(logits, number, temperature, top_k, top_p)
    ):
        place = int((order == tokens[0]).nonzero())
        begin = float(ends[place - 1]) if place else 0.0
        assert begin - 2e-5 <= number <= float(ends[place]) + 2e-5
        expected = logits[0].double().logsumexp(0)
        torch.testing.assert_close(normaliser[0], expected, rtol=1e-6, atol=1e-6)


def plain(
    logits: torch.Tensor, number: float, temperature: float, top_k: int, top_p: float
) -> list[Any]:
    """Arguments of a draw without history and biases that lists the normaliser."""

    def doubles(*values: float) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    starts = torch.zeros(2, dtype=torch.int64)
    no_ids = torch.zeros(0, dtype=torch.int32)
    off = doubles(1, 0, 0).view(1, 3)
    draw = [logits, doubles(number), doubles(temperature), doubles(top_p), torch.tensor([top_k])]
    lists = [no_ids, starts, starts[:1], no_ids, torch.zeros(0), starts]
    return [*draw, off, *lists, starts[:1], 0]


@pytest.mark.parametrize("operator", ["rms_norm", "add_layer_norm"])
def test_rows_of_equal_numbers_and_of_zeros(operator: str) -> None:
    x = torch.tensor([[3.0] * 33, [0.0] * 33])
    weight, bias = torch.full((33,), 2.0), torch.full((33,), 0.5)
    rest = (None, weight, bias) if operator == "add_layer_norm" else (weight,)
    expected = [[0.5], [0.5]] if operator == "add_layer_norm" else [[2.0], [0.0]]
    for found in each_level(operator, x, *rest, 1e-12):
        torch.testing.assert_close(found, torch.tensor(expected).expand(2, 33))
