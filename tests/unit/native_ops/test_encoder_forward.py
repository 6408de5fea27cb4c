"""All layers in one operator; test_contract.py says what the encoder's operators refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from native_ops import encoder as ops
from tests.unit.native_ops.encoder_models import NUMBERS, TOLERANCE, Model, forward64, tokens
from tests.unit.native_ops.levels import REFERENCE
from tests.unit.native_ops.operator_arguments import int32, starts


def run(backend: str, *arguments: Any) -> torch.Tensor:
    reference = backend == REFERENCE
    operator = ops.encoder_forward_reference if reference else ops.encoder_forward
    result: torch.Tensor = operator(*arguments, [], [], int32())
    return result


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("width", "heads", "inner"), [(64, 2, 96), (24, 3, 50), (1, 1, 1)])
@pytest.mark.parametrize("lengths", [[], [1], [3, 50, 1, 17], [600, 2]])
def test_against_float64(
    backend: str, number: str, width: int, heads: int, inner: int, lengths: list[int]
) -> None:
    rest = Model(width, heads, inner, number).arguments()
    ids, cu = tokens(sum(lengths)), starts(lengths)
    y = run(backend, ids, cu, *rest)
    assert (y.dtype, y.shape) == (torch.float32, (sum(lengths), width))
    expected = forward64(ids, lengths, *rest)
    torch.testing.assert_close(y.double(), expected, atol=TOLERANCE[number], rtol=TOLERANCE[number])


# the reference's products may depend on the number of rows
@pytest.mark.parametrize("number", NUMBERS)
def test_a_text_has_the_same_bits_in_every_batch(level: str, number: str) -> None:
    rest = Model(64, 2, 128, number).arguments()
    lengths = [5, 300, 1, 33, 16, 260]
    ids = tokens(sum(lengths))
    together = run(level, ids, starts(lengths), *rest)
    assert torch.equal(together, run(level, ids, starts(lengths), *rest))
    for rows in torch.split(torch.arange(len(ids)), lengths):
        alone = run(level, ids[rows], starts([len(rows)]), *rest)
        assert torch.equal(together[rows], alone)


def test_threads_do_not_change_the_bits(backend: str) -> None:
    rest = Model(64, 2, 128, "bfloat16").arguments()
    lengths = [600, 40, 3, 90]
    ids = tokens(sum(lengths))
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(run(backend, ids, starts(lengths), *rest))
    torch.testing.assert_close(*results, atol=1e-6 if backend == REFERENCE else 0, rtol=0)


def test_nan_stays_in_its_text(backend: str) -> None:
    words, *rest = Model(32, 2, 64, "bfloat16").arguments()
    words = words.clone()
    words[7] = torch.nan
    ids = torch.tensor([1, 2, 7, 3, 4, 5], dtype=torch.int32)
    y = run(backend, ids, starts([2, 2, 2]), words, *rest)
    assert y.isnan().any(1).tolist() == [False, False, True, True, False, False]


CU, IDS = int32(0, 2), int32(1, 2)


def test_without_layers_nothing_is_as_wide_as_inner(backend: str) -> None:
    words, places, _, vectors, heads, _, *rest = Model(8, 1, 8, "float32").arguments()
    least = run(backend, IDS, CU, words, places, [], vectors[:2], heads, 1, *rest)
    most = run(backend, IDS, CU, words, places, [], vectors[:2], heads, 2**62, *rest)
    assert torch.equal(least, most)
