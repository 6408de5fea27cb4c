"""The front of a GGUF file: counts and metadata, read over bytes that are known to be there."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ironcliw.errors import ModelLoadError
from native_ops.gguf_types import ARRAY, NUMBER_FORMATS, STRING

MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8
"""The least a tensor's description can take: an empty name's length, one dimension, type, place."""
_MIN_ENTRY_BYTES = 8 + 4 + 1
"""The least a metadata entry can take: an empty key's length, a type, one byte of value."""


class Cursor:
    """A place in the file that only moves over bytes that are there."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path = path
        self.at = 0
        self.data = data

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, nbytes: int, what: str) -> memoryview:
        if nbytes > self.left:
            raise ModelLoadError(
                f"{self.path} is cut short or damaged: {what} at byte {self.at} needs {nbytes} "
                f"bytes, the file holds {self.left} more; download it again",
                code="model_file_truncated",
            )
        self.at += nbytes
        return self.data[self.at - nbytes : self.at]

    def uint32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def uint64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def string(self, what: str) -> str:
        start = self.at
        piece = self.take(self.uint64(f"the length of {what}"), what)
        try:
            return str(piece, "utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged(f"{what} at byte {start} is not UTF-8 ({error.reason})") from error

    def count(self, count: int, least: int, what: str) -> int:
        """The count, if so many things of at least so many bytes can still follow."""
        if count * least > self.left:
            raise self.damaged(
                f"it claims {count} {what} at byte {self.at}, of which {self.left} more bytes "
                f"cannot hold more than {self.left // least}"
            )
        return count

    def damaged(self, found: str) -> ModelLoadError:
        return ModelLoadError(f"{self.path} is damaged: {found}; download it again")


def read_head(cursor: Cursor) -> tuple[int, int]:
    """How many tensors and metadata entries the file says it has."""
    magic = bytes(cursor.take(4, "the file type"))
    if magic != b"GGUF":
        raise ModelLoadError(
            f"{cursor.path} is not a GGUF file: it starts with {magic!r}, not b'GGUF'; correct the "
            "path, or download it again"
        )
    version = cursor.uint32("the format version")
    if version not in (2, 3):
        if version in (2 << 24, 3 << 24):
            found = "is a big-endian GGUF file"
        else:
            found = f"is of GGUF version {version}"
        raise ModelLoadError(
            f"{cursor.path} {found}; little-endian versions 2 and 3 can be read: convert it again "
            "with a present llama.cpp"
        )
    tensors = cursor.uint64("the number of tensors")
    entries = cursor.uint64("the number of metadata entries")
    cursor.count(entries, _MIN_ENTRY_BYTES, "metadata entries")
    cursor.count(tensors, MIN_TENSOR_BYTES, "tensors")
    return tensors, entries


def read_metadata(cursor: Cursor, entries: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = cursor.string("a metadata key")
        if key in metadata:
            raise cursor.damaged(f"metadata key {key!r} stands twice before byte {cursor.at}")
        metadata[key] = _value(cursor, cursor.uint32(f"the type of {key!r}"), key)
    return metadata


def _value(cursor: Cursor, kind: int, key: str) -> Any:
    if kind in NUMBER_FORMATS:
        return _numbers(cursor, kind, 1, key)[0].item()
    if kind == STRING:
        return cursor.string(f"the text of {key!r}")
    if kind != ARRAY:
        raise cursor.damaged(f"{key!r} before byte {cursor.at} is of unknown type {kind}")
    kind = cursor.uint32(f"the element type of {key!r}")
    count = cursor.uint64(f"the length of {key!r}")
    if kind in NUMBER_FORMATS:
        return _numbers(cursor, kind, count, key)
    if kind == STRING:
        return _strings(cursor, cursor.count(count, 8, f"strings in {key!r}"), key)
    raise cursor.damaged(f"{key!r} before byte {cursor.at} is an array of unknown type {kind}")


def _numbers(cursor: Cursor, kind: int, count: int, key: str) -> npt.NDArray[Any]:
    dtype = np.dtype(NUMBER_FORMATS[kind])
    piece = cursor.take(count * dtype.itemsize, f"the value of {key!r}")
    if dtype.kind == "b":  # any byte but 0 is true; as a numpy bool only 0 and 1 are defined
        return np.frombuffer(piece, np.uint8).astype(np.bool_)
    return np.frombuffer(piece, dtype).copy()


def _strings(cursor: Cursor, count: int, key: str) -> list[str]:
    # a vocabulary has 50,000 to 250,000 of these: one loop without a call for each part
    data, at, end = cursor.data, cursor.at, len(cursor.data)
    length_of = struct.Struct("<Q").unpack_from
    strings: list[str] = []
    try:
        for _ in range(count):
            start = at + 8
            at = start + length_of(data, at)[0] if start <= end else end + 1
            if at > end:
                raise ModelLoadError(
                    f"{cursor.path} is cut short or damaged: string {len(strings)} of {key!r} at "
                    f"byte {start} reaches past the file's {end} bytes; download it again",
                    code="model_file_truncated",
                )
            strings.append(str(data[start:at], "utf-8"))
    except UnicodeDecodeError as error:
        raise cursor.damaged(
            f"string {len(strings)} of {key!r} at byte {start} is not UTF-8"
        ) from error
    cursor.at = at
    return strings
