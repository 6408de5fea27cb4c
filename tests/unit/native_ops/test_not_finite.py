"""NaN, infinity and the end of float32's range in the encoder's operators, on every level."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from native_ops.encoder_layout import pack, unpack
from tests.unit.native_ops.test_values import assert_values, draw_rows, each_level


def test_unit_length_of_rows_that_are_near_the_end_of_float32_or_infinite() -> None:
    hidden = 1e37 * draw_rows(3, 40, 6, False)
    cu = torch.tensor([0, 1, 2, 3], dtype=torch.int32)
    expected = F.normalize(hidden.double(), dim=1)
    assert_values(each_level("pool_texts", hidden, cu, "mean", True), expected, 2e-6)
    hidden[1, 3] = torch.inf
    expected[1] = 0  # what is finite beside infinity
    expected[1, 3] = torch.nan
    assert_values(each_level("pool_texts", hidden, cu, "mean", True), expected, 2e-6)


@pytest.mark.parametrize("number", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_weight_that_is_not_finite(number: str, bad: float) -> None:
    x, weight = draw_rows(5, 65, 7, False), draw_rows(40, 65, 8, False)
    bias = torch.zeros(40)
    rest = (bias, "none", number)
    clean = each_level("encoder_linear", x, pack(weight, number), *rest)
    weight[33, 64] = bad
    for packed in each_level("encoder_pack", weight, number):
        kept = [unpack(one, number, 40, 65) for one in (packed, pack(weight, number))]
        torch.testing.assert_close(*kept, rtol=0, atol=0, equal_nan=True)  # NaN has many bits
    found = each_level("encoder_linear", x, pack(weight, number), *rest)
    # int8 holds no infinity: its row is as unknown as one with NaN
    here = torch.full((5,), torch.nan) if number == "int8" else x[:, 64] * bad
    for one, before in zip(found, clean, strict=True):
        torch.testing.assert_close(one[:, 33], here, rtol=0, atol=0, equal_nan=True)
        others = torch.arange(40) != 33
        assert torch.equal(one[:, others], before[:, others])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_activations_that_are_not_finite(bad: float, dtype: torch.dtype) -> None:
    x = draw_rows(20, 65, 7, False).to(dtype)
    x[17, 64] = bad
    packed = pack(draw_rows(40, 65, 8, False), "int8")
    for found in each_level("encoder_linear", x, packed, torch.zeros(40), "none", "int8"):
        assert found[17].isnan().all()
        assert not found[torch.arange(20) != 17].isnan().any()
