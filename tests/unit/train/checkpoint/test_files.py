"""What is written is what is read, to the last bit, and by safetensors' own library too."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from ironcliw.errors import CheckpointError, DamagedCheckpointError
from tests.unit.train.checkpoint.samples import snapshot
from train.checkpoint import files
from train.checkpoint.files import (
    Part,
    decode_state,
    encode_state,
    parts_of,
    read_tensors,
    tensors_part,
)

DTYPES = (
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def joined(part: Part) -> bytes:
    return b"".join(part.blocks())


def test_every_dtype_and_shape_comes_back(tmp_path: Path) -> None:
    tensors = {f"a/{dtype}": (torch.rand(3, 5) * 100).to(dtype) for dtype in DTYPES}
    tensors["a/scalar"] = torch.tensor(math.pi)
    tensors["a/empty"] = torch.empty(0, 4)
    tensors["a/strided"] = torch.arange(12.0).reshape(3, 4).t()
    tensors["a/trained"] = torch.nn.Parameter(torch.randn(2))
    part = tensors_part("a.safetensors", tensors)
    raw = joined(part)
    assert len(raw) == part.size_bytes
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw)
    for found in (read_tensors(raw, "a"), safetensors.torch.load_file(path)):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype, name
            assert torch.equal(found[name], tensor), name


def test_tensors_are_aligned() -> None:
    """For whoever maps the file into memory."""
    odd = {"a/a": torch.ones(3, dtype=torch.uint8), "a/b": torch.ones(1, dtype=torch.float64)}
    raw = joined(tensors_part("a.safetensors", odd))
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert [(8 + length + header[name]["data_offsets"][0]) % 8 for name in ("a/b", "a/a")] == [0, 0]


def test_tensors_are_not_copied() -> None:
    tensor = torch.zeros(8)
    part = tensors_part("a.safetensors", {"a/x": tensor})
    tensor[3] = 7
    assert read_tensors(joined(part), "a")["a/x"][3] == 7


def test_files_hold_their_group_and_the_state_is_last() -> None:
    parts = parts_of(snapshot(3))
    assert [part.name for part in parts] == [
        "adapter.safetensors", "optimizer.safetensors", "state.json"
    ]  # fmt: skip
    names = read_tensors(joined(parts[0]), "adapter").keys()
    assert names == {"adapter/layers.0.q.A", "adapter/layers.0.q.B"}


def test_a_name_without_a_group() -> None:
    plain = dataclasses.replace(snapshot(1), tensors={"x": torch.ones(1)})
    assert [part.name for part in parts_of(plain)] == ["tensors.safetensors", "state.json"]


def test_blocks_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BLOCK_BYTES", 16)
    part = tensors_part("a.safetensors", {"a/x": torch.arange(9.0)})
    assert max(block.nbytes for block in part.blocks()) == 16
    assert torch.equal(read_tensors(joined(part), "a")["a/x"], torch.arange(9.0))


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_states_come_back(state: dict[str, Any]) -> None:
    found = decode_state(encode_state(state), "here")
    assert found == state
    assert repr(found) == repr(state)  # -0.0 == 0.0, True == 1


def test_floats_that_are_not_finite_come_back() -> None:
    found = decode_state(encode_state({"a": [math.nan, math.inf, -math.inf]}), "here")
    assert repr(found) == "{'a': [nan, inf, -inf]}"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": (1, 2)}, r"state\['a'\] is a tuple"),
        ({"a": [0, {3: 4}]}, r"state\['a'\]\[1\] has the key 3"),
        ({"a": torch.ones(1)}, r"state\['a'\] is a Tensor.*snapshot's tensors"),
        ({"a": torch.ones(1).numpy()[0]}, r"state\['a'\] is a float32"),
        ({"a": b"x"}, r"state\['a'\] is a bytes"),
    ],
)
def test_what_json_would_change_is_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        encode_state(value)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("a/x", torch.ones(1, dtype=torch.complex64), "'a/x' is torch.complex64 on cpu"),
        ("a/x", torch.ones(1, device="meta"), "'a/x' is torch.float32 on meta"),
        ("../a/x", torch.ones(1), r"'\.\./a/x' cannot be saved"),
    ],
)
def test_tensors_that_cannot_be_saved(name: str, tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parts_of(dataclasses.replace(snapshot(1), tensors={name: tensor}))


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[" * 100_000, b"[]"])
def test_a_state_that_is_none(raw: bytes) -> None:
    with pytest.raises(DamagedCheckpointError, match=r"^here (is no JSON|holds list)"):
        decode_state(raw, "here")


@pytest.mark.parametrize("raw", [b"", b"x" * 100, (2**40).to_bytes(8, "little")])
def test_tensors_that_are_none(raw: bytes) -> None:
    with pytest.raises(DamagedCheckpointError, match=r"^here is no safetensors file"):
        read_tensors(raw, "here")
