"""Packed weights: the same numbers as the `gguf` package reads, and products against float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from hypothesis import given, settings
from hypothesis import strategies as st

from native_ops import packed_linear as packed
from native_ops import packed_linear_reference
from native_ops.packed_linear import FORMATS, INT8, packed_bytes, source_bytes
from tests.unit.native_ops import levels
from tests.unit.native_ops.levels import on_each_level

QUANTIZED = ["Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K", "INT8"]
FLOATS = ["F32", "F16", "BF16"]
STEP = {1: 0.501 / 127, 2: 0.52 / 127 / 254}
"""The most that an activation is moved, as a share of the largest of its 32, by planes."""
NIBBLES = ("Q4_0", "Q4_1", "Q4_K")
NIBBLE_STEP = {1: STEP[1], 2: 0.52 / 127 / 16}
"""The same where weights have 4 bits."""


@dataclass(frozen=True)
class Ops:
    pack_weight: Callable[..., torch.Tensor]
    packed_linear: Callable[..., torch.Tensor]


REFERENCE = Ops(
    packed_linear_reference.pack_weight_reference, packed_linear_reference.packed_linear_reference
)

COMPILED = Ops(packed.pack_weight, packed.packed_linear)


@pytest.fixture
def ops(backend: str) -> Ops:
    return REFERENCE if backend == levels.REFERENCE else COMPILED


def source_of(kind: str, rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Random blocks with scales of a sensible size, or floats."""
    generator = torch.Generator().manual_seed(seed)
    if kind in FLOATS:
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
        values = torch.randn(rows, columns, generator=generator).to(dtype)
        return values.view(torch.uint8).flatten()
    if kind == "INT8":
        return packed.quantize_rows_int8(torch.randn(rows, columns, generator=generator))
    nbytes = source_bytes(FORMATS[kind], 1, packed.columns_multiple(FORMATS[kind]))
    count = source_bytes(FORMATS[kind], rows, columns) // nbytes
    blocks = torch.randint(0, 256, (count, nbytes), dtype=torch.uint8, generator=generator)
    for at in {"Q6_K": (208,), "Q4_1": (0, 2), "Q4_K": (0, 2)}.get(kind, (0,)):
        scales = 0.02 * torch.randn(count, generator=generator).half()
        blocks[:, at : at + 2] = scales.view(torch.uint8).view(-1, 2)
    return blocks.flatten()


def values_of(kind: str, source: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """float64 [rows, columns] by another reader than ours."""
    if not rows:
        return torch.zeros(0, columns, dtype=torch.float64)
    if kind == "INT8":
        blocks = source.view(rows, columns + 4)
        scale = blocks[:, :4].flatten().clone().view(torch.float32)[:, None].double()
        return scale * blocks[:, 4:].contiguous().view(torch.int8)
    raw = source.numpy().reshape(rows, source_bytes(FORMATS[kind], 1, columns))
    with np.errstate(all="ignore"):
        values = quants.dequantize(raw, GGMLQuantizationType(FORMATS[kind]))
    return torch.from_numpy(values).double().view(rows, columns)


def check_product(
    ops: Ops, kind: str, outputs: int, columns: int, x: torch.Tensor, planes: int
) -> None:
    """Within what rounding the activations and adding up in float32 can make."""
    source = source_of(kind, outputs, columns)
    weight = values_of(kind, source, outputs, columns)
    matrix = ops.pack_weight(source, FORMATS[kind], outputs, columns)
    found = ops.packed_linear(x, matrix, FORMATS[kind], outputs, planes)
    step = 0.0 if kind in FLOATS else (NIBBLE_STEP if kind in NIBBLES else STEP)[planes]
    unit = 1 if kind in FLOATS else 32
    largest = x.double().abs().unflatten(1, (-1, unit)).amax(2).repeat_interleave(unit, 1)  # type: ignore[no-untyped-call]
    allowed = (step * largest + 2e-6 * x.double().abs()) @ weight.abs().T + 1e-30
    # an offset's product may cancel the rest
    allowed += 2e-6 * largest.sum(1, keepdim=True) * weight.abs().amax() if outputs else 0
    assert found.dtype == torch.float32
    assert found.shape == (len(x), outputs)
    assert ((found - x.double() @ weight.T).abs() <= allowed).all()


@pytest.mark.parametrize("kind", [*QUANTIZED, *FLOATS])
def test_every_format_is_read_as_the_gguf_package_reads_it(ops: Ops, kind: str) -> None:
    source = source_of(kind, 19, 512)
    matrix = ops.pack_weight(source, FORMATS[kind], 19, 512)
    assert matrix.shape == (packed_bytes(FORMATS[kind], 19, 512),)
    values = packed.unpack_weight(matrix, FORMATS[kind], 19, 512)
    assert torch.equal(values, values_of(kind, source, 19, 512).float())


@pytest.mark.parametrize("kind", [*QUANTIZED, *FLOATS])
@settings(deadline=None, max_examples=10)
@given(rows=st.integers(0, 40), units=st.integers(0, 3), seed=st.integers(0, 9))
def test_any_bytes_pack_as_the_reference_packs_them(
    kind: str, rows: int, units: int, seed: int
) -> None:
    number = FORMATS[kind]
    columns = units * packed.columns_multiple(number)
    generator = torch.Generator().manual_seed(seed)
    nbytes = source_bytes(number, rows, columns)
    source = torch.randint(0, 256, (nbytes,), dtype=torch.uint8, generator=generator)
    expected = REFERENCE.pack_weight(source, number, rows, columns)
    assert torch.equal(packed.pack_weight(source, number, rows, columns), expected)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_a_matrix_may_be_packed_in_pieces(ops: Ops, kind: str) -> None:
    number = FORMATS[kind]
    source = source_of(kind, 40, 256)
    whole = ops.pack_weight(source, number, 40, 256)
    at = source_bytes(number, 32, 256)
    pieces = (
        ops.pack_weight(source[:at], number, 32, 256),
        ops.pack_weight(source[at:], number, 8, 256),
    )
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("kind", [*QUANTIZED, *FLOATS])
def test_products_against_float64(ops: Ops, kind: str, planes: int) -> None:
    for rows, outputs in ((1, 16), (3, 40), (17, 33)):
        check_product(ops, kind, outputs, 512, torch.randn(rows, 512), planes)


@settings(deadline=None, max_examples=20)
@given(
    kind=st.sampled_from([*QUANTIZED, *FLOATS]),
    planes=st.sampled_from([1, 2]),
    rows=st.integers(0, 70),
    outputs=st.integers(0, 70),
    units=st.integers(1, 3),
    power=st.integers(-20, 20),
)
def test_products_of_any_size(
    kind: str, planes: int, rows: int, outputs: int, units: int, power: int
) -> None:
    columns = units * max(packed.columns_multiple(FORMATS[kind]), 5)
    x = torch.randn(rows, columns) * 10.0**power
    on_each_level(lambda: check_product(COMPILED, kind, outputs, columns, x, planes))


def test_without_inputs_the_product_is_zero(ops: Ops) -> None:
    empty = torch.empty(0, dtype=torch.uint8)
    found = ops.packed_linear(torch.empty(3, 0), empty, FORMATS["Q8_0"], 5, 1)
    assert torch.equal(found, torch.zeros(3, 5))


# of the kernels alone: torch's own products make no such promise
@pytest.mark.parametrize("backend", levels.LEVELS, indirect=True)
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("kind", [*QUANTIZED, "F16"])
def test_a_row_has_the_same_bits_alone_and_among_others(kind: str, planes: int, ops: Ops) -> None:
    number = FORMATS[kind]
    matrix = ops.pack_weight(source_of(kind, 40, 512), number, 40, 512)
    x = torch.randn(300, 512)
    whole = ops.packed_linear(x, matrix, number, 40, planes)
    for start, count in ((0, 1), (299, 1), (5, 2), (7, 7), (31, 33), (100, 200)):
        part = ops.packed_linear(x[start : start + count], matrix, number, 40, planes)
        assert torch.equal(part, whole[start : start + count])


def test_the_number_of_threads_changes_no_bit() -> None:
    matrix = packed.pack_weight(source_of("Q4_1", 500, 512), FORMATS["Q4_1"], 500, 512)
    x = torch.randn(40, 512)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(packed.packed_linear(x, matrix, FORMATS["Q4_1"], 500, 2))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_inputs_may_lie_anyhow(ops: Ops) -> None:
    source = source_of("Q4_1", 32, 64)
    matrix = ops.pack_weight(source, FORMATS["Q4_1"], 32, 64)
    x = torch.randn(64, 9)
    spread = source.repeat_interleave(2)[::2]
    assert torch.equal(ops.pack_weight(spread, FORMATS["Q4_1"], 32, 64), matrix)
    found = ops.packed_linear(x.T, matrix, FORMATS["Q4_1"], 32, 2)
    expected = ops.packed_linear(x.T.contiguous(), matrix, FORMATS["Q4_1"], 32, 2)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", [*QUANTIZED, "BF16"])
def test_a_row_with_nan_gives_nan_and_no_other_does(ops: Ops, kind: str, bad: float) -> None:
    matrix = ops.pack_weight(source_of(kind, 33, 256), FORMATS[kind], 33, 256)
    x = torch.randn(11, 256)
    x[4, 200] = bad
    found = ops.packed_linear(x, matrix, FORMATS[kind], 33, 2)
    assert not found[4].isfinite().any()
    assert kind == "BF16" or found[4].isnan().all()
    assert found[torch.arange(11) != 4].isfinite().all()


BAD_PRODUCTS = [
    ({"x": torch.zeros(2, 64, dtype=torch.float64)}, "x must be .*float32; it is .*float64"),
    ({"x": torch.zeros(64)}, r"x must have 2 dimensions; its shape is \[64\]"),
    ({"x": torch.zeros(2, 65)}, "columns must be a multiple of 32 for format 3; it is 65"),
    ({"x": torch.zeros(2, 32)}, r"packed must have 640 in dimension 0; its shape is \[1280\]"),
    ({"packed": torch.zeros(1280)}, "packed must be .*uint8; it is .*float32"),
    ({"packed": torch.zeros(2, 640, dtype=torch.uint8)}, "packed must have 1 dimensions"),
    ({"format": 10}, "format must be one of FORMATS; it is 10"),
    ({"outputs": -1}, r"rows must be 0 to 2\^28; it is -1"),
    ({"outputs": 1 << 40}, r"rows must be 0 to 2\^28"),
    ({"planes": 3}, "planes must be 1 or 2; it is 3"),
]


@pytest.mark.parametrize(("changed", "rule"), BAD_PRODUCTS)
def test_a_wrong_product_is_refused(ops: Ops, changed: dict[str, object], rule: str) -> None:
    arguments: dict[str, object] = {
        "x": torch.zeros(2, 64),
        "packed": torch.zeros(1280, dtype=torch.uint8),
        "format": FORMATS["Q4_1"],
        "outputs": 20,
        "planes": 2,
    }
    arguments["packed"] = torch.zeros(packed_bytes(FORMATS["Q4_1"], 20, 64), dtype=torch.uint8)
    with pytest.raises(RuntimeError, match=f"ironcliw::packed_linear: {rule}"):
        ops.packed_linear(*(arguments | changed).values())


@pytest.mark.parametrize(
    ("source", "number", "rows", "columns", "rule"),
    [
        (torch.zeros(19, dtype=torch.uint8), 3, 1, 32, r"source must have 20 in dimension 0; .*19"),
        (torch.zeros(20), 3, 1, 32, "source must be .*uint8; it is .*float32"),
        (torch.zeros(1, 20, dtype=torch.uint8), 3, 1, 32, "source must have 1 dimensions"),
        (torch.zeros(20, dtype=torch.uint8), 3, 1, 31, "columns must be a multiple of 32"),
        (torch.zeros(144, dtype=torch.uint8), 12, 1, 32, "columns must be a multiple of 256"),
        (torch.zeros(0, dtype=torch.uint8), 3, 0, 1 << 28, r"columns must be 0 to 2\^28"),
        (torch.zeros(0, dtype=torch.uint8), 99, 0, 0, "format must be one of FORMATS; it is 99"),
    ],
)
def test_a_wrong_source_is_refused(
    ops: Ops, source: torch.Tensor, number: int, rows: int, columns: int, rule: str
) -> None:
    with pytest.raises(RuntimeError, match=f"ironcliw::pack_weight: {rule}"):
        ops.pack_weight(source, number, rows, columns)


@settings(deadline=None, max_examples=15)
@given(rows=st.integers(0, 9), columns=st.integers(0, 70), power=st.integers(-30, 30))
def test_int8_rows_are_within_half_a_step(rows: int, columns: int, power: int) -> None:
    weight = torch.randn(rows, columns) * 10.0**power
    source = packed.quantize_rows_int8(weight)
    found = values_of("INT8", source, rows, columns)
    largest = weight.abs().amax(1, keepdim=True) if columns else torch.zeros(rows, 1)
    assert ((found - weight).abs() <= 0.5001 * largest / 127).all()
    assert source.shape == (source_bytes(INT8, rows, columns),)


def test_int8_rows_of_zeros_and_of_bfloat16() -> None:
    source = packed.quantize_rows_int8(torch.zeros(2, 32, dtype=torch.bfloat16))
    assert torch.equal(source, torch.zeros(72, dtype=torch.uint8))


def test_q4_blocks_are_within_half_a_step() -> None:
    weight = torch.randn(7, 96)
    weight[0, :32] = 0.25  # exact in half precision: so must its block be
    found = values_of("Q4_1", packed.quantize_rows_q4(weight), 7, 96)
    blocks = weight.view(-1, 32)
    step = (blocks.amax(1) - blocks.amin(1)) / 15
    error = (found - weight).abs().view(-1, 32).amax(1)
    assert (error <= 0.51 * step + 0.002 * blocks.abs().amax(1)).all()
    assert error[0] == 0
