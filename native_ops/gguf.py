"""A reader of GGUF files (versions 2 and 3, little-endian) that trusts nothing it reads.

Every length, count, type, offset and alignment is checked against the size of the file before
anything is allocated for it, so that a file cut short, damaged or made to harm gives an error that
says where, and never a crash. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ironcliw.errors import ModelLoadError
from native_ops.gguf_header import MIN_TENSOR_BYTES, Cursor, read_head, read_metadata
from native_ops.gguf_types import BLOCK_TYPES, TYPE_NUMBERS

_MAX_DIMENSIONS = 4
"""GGML_MAX_DIMS in ggml.h."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies and what it is made of.

    Args:
        name: As llama.cpp names it, e.g. "blk.0.attn_q.weight".
        kind: Element type, e.g. "Q4_1".
        shape: Row-major, as numpy has it: the reverse of the order in the file.
        offset: Of its first byte, from the start of the file.
        nbytes: Bytes in the file.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def rows(self) -> int:
        """How many rows of `shape[-1]` numbers it has."""
        return math.prod(self.shape[:-1])


@dataclass(frozen=True, slots=True)
class GgufFile:
    """An opened GGUF file: what it says of itself, and its tensors, memory-mapped.

    Args:
        path: Where it was read from.
        metadata: Values by key; arrays of numbers as numpy arrays, arrays of strings as lists.
        tensors: In the file's order, by name.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    _bytes: npt.NDArray[np.uint8]

    @classmethod
    def read(cls, path: Path) -> GgufFile:
        """Read and check everything but the weights themselves.

        Raises:
            ModelLoadError: the file is absent, not GGUF, of another version, cut short or damaged.
        """
        data = _mapped(path)
        cursor = Cursor(path, data.data)
        tensors_stated, entries_stated = read_head(cursor)
        metadata = read_metadata(cursor, entries_stated)
        return cls(path, metadata, _tensors(cursor, tensors_stated, metadata), data)

    @property
    def kind(self) -> str:
        """The element type that most of the weights' bytes are stored in, e.g. "Q4_1"."""
        nbytes = Counter[str]()
        for tensor in self.tensors.values():
            nbytes[tensor.kind] += tensor.nbytes
        return nbytes.most_common(1)[0][0] if nbytes else "F32"

    def integer(self, key: str, default: int | None = None) -> int:
        """A metadata value that must be a whole number; ModelLoadError where it is not."""
        return self._value(key, default, int, "a whole number")

    def number(self, key: str, default: float | None = None) -> float:
        """A metadata value that must be a number; ModelLoadError where it is not."""
        value = self.metadata.get(key, default)
        if isinstance(value, int):
            return float(self.integer(key, value))
        value = self._value(key, default, float, "a number")
        if not math.isfinite(value):
            raise ModelLoadError(f"{self.path}: {key} is {value}; download it again")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A metadata value that must be text; ModelLoadError where it is not."""
        return self._value(key, default, str, "text")

    def flag(self, key: str, default: bool) -> bool:
        """A metadata value that must be true or false; ModelLoadError where it is not."""
        return self._value(key, default, bool, "true or false")

    def texts(self, key: str) -> list[str]:
        """A metadata value that must be an array of strings; ModelLoadError where it is not."""
        return self._value(key, None, list, "an array of strings")

    def numbers(self, key: str) -> npt.NDArray[Any]:
        """A metadata value that must be an array of numbers; ModelLoadError where it is not."""
        return self._value(key, None, np.ndarray, "an array of numbers")

    def _value(self, key: str, default: Any, kind: type[_T], what: str) -> _T:
        value = self.metadata.get(key, default)
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        found = f"is {value!r:.60}" if key in self.metadata else "is absent"
        raise ModelLoadError(
            f"{self.path}: metadata key {key!r} {found}, where {what} is needed; download it "
            "again, or convert it again with a present llama.cpp"
        )

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The tensor's bytes, one-dimensional, as stored; not read from the disk until used."""
        tensor = self.tensors[name]
        return self._bytes[tensor.offset : tensor.offset + tensor.nbytes]

    def dequantize(
        self, name: str, rows: slice | npt.NDArray[np.intp] | None = None
    ) -> npt.NDArray[np.float32]:
        """The tensor in float32, of its own shape.

        Args:
            name: One of `tensors`.
            rows: Only these of its `tensor.rows` rows; the answer is then [rows, shape[-1]].

        Raises:
            ModelLoadError: no decoder is known for its element type.
        """
        from gguf import GGMLQuantizationType, quants

        tensor = self.tensors[name]
        blocks = self.raw(name).reshape(tensor.rows, -1)
        if rows is not None:
            blocks = blocks[rows]
        try:
            # a damaged block may hold any scale: what overflows shows as infinity, not as a warning
            with np.errstate(all="ignore"):
                values = quants.dequantize(blocks, GGMLQuantizationType(TYPE_NUMBERS[tensor.kind]))
        except NotImplementedError as error:
            raise ModelLoadError(
                f"{self.path}: tensor {name!r} is stored as {tensor.kind}, for which there is no "
                "decoder; use a file in another quantisation, such as Q8_0, Q4_K or F16"
            ) from error
        shape = tensor.shape if rows is None else (len(blocks), tensor.shape[-1])
        result: npt.NDArray[np.float32] = values.reshape(shape)
        return result


def _mapped(path: Path) -> npt.NDArray[np.uint8]:
    try:
        if path.stat().st_size == 0:
            raise ModelLoadError(f"{path} is empty; download it again", code="model_file_truncated")
        return np.memmap(path, dtype=np.uint8, mode="r")
    except FileNotFoundError as error:
        raise ModelLoadError(
            f"{path} is absent; copy the model file again", code="model_file_absent"
        ) from error
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read ({error.strerror})") from error


def _tensors(cursor: Cursor, count: int, metadata: Mapping[str, Any]) -> dict[str, GgufTensor]:
    alignment = metadata.get("general.alignment", 32)
    # a power of two, as ggml demands; the bound only keeps padding from outgrowing the file
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment.bit_count() > 1:
        raise cursor.damaged(f"general.alignment is {alignment!r:.40}, not a power of two")
    tensors: dict[str, GgufTensor] = {}
    for _ in range(cursor.count(count, MIN_TENSOR_BYTES, "tensors")):
        tensor = _description(cursor, alignment)
        if tensor.name in tensors:
            raise cursor.damaged(f"tensor {tensor.name!r} stands twice before byte {cursor.at}")
        tensors[tensor.name] = tensor
    data_start = -(-cursor.at // alignment) * alignment
    return _placed(cursor, tensors, data_start)


def _description(cursor: Cursor, alignment: int) -> GgufTensor:
    """A tensor with its offset from the start of the data, as the file has it."""
    name = cursor.string("a tensor's name")
    dimensions = cursor.uint32(f"the dimensions of {name!r}")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise cursor.damaged(
            f"tensor {name!r} before byte {cursor.at} has {dimensions} dimensions, not 1 to 4"
        )
    shape = tuple(cursor.uint64(f"the shape of {name!r}") for _ in range(dimensions))[::-1]
    kind = cursor.uint32(f"the type of {name!r}")
    offset = cursor.uint64(f"the place of {name!r}")
    if kind not in BLOCK_TYPES:
        raise ModelLoadError(
            f"{cursor.path}: tensor {name!r} before byte {cursor.at} is of unknown element type "
            f"{kind}; download it again, or use a file in another quantisation"
        )
    block = BLOCK_TYPES[kind]
    if min(shape) < 1 or shape[-1] % block.elements:
        raise cursor.damaged(
            f"tensor {name!r} before byte {cursor.at} has shape {shape}, which {block.name} blocks "
            f"of {block.elements} cannot fill"
        )
    if offset % alignment:
        raise cursor.damaged(f"tensor {name!r} starts at {offset}, not a multiple of {alignment}")
    nbytes = math.prod(shape) // block.elements * block.nbytes
    return GgufTensor(name, block.name, shape, offset, nbytes)


def _placed(
    cursor: Cursor, tensors: dict[str, GgufTensor], data_start: int
) -> dict[str, GgufTensor]:
    """The tensors by their place in the file, which each has to itself."""
    placed: dict[str, GgufTensor] = {}
    end, size = data_start, len(cursor.data)
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        start = data_start + tensor.offset
        if start < end:
            raise cursor.damaged(f"tensor {tensor.name!r} at byte {start} overlaps another")
        end = start + tensor.nbytes
        if end > size:
            raise ModelLoadError(
                f"{cursor.path} is cut short or damaged: tensor {tensor.name!r} at byte {start} "
                f"needs {tensor.nbytes} bytes, the file has {size} in all; download it again",
                code="model_file_truncated",
            )
        placed[tensor.name] = GgufTensor(
            tensor.name, tensor.kind, tensor.shape, start, tensor.nbytes
        )
    return placed
