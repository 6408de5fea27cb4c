"""What a safetensors file declares, checked against what it holds, before any weight is read.

A file cut short by a full disk or a broken download is found here, in microseconds, instead of as a
bus error in the middle of a forward pass. Format: https://huggingface.co/docs/safetensors (8 bytes
of little-endian header length, a JSON header, then the tensors' bytes).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from ironcliw.errors import ModelLoadError
from ironcliw.json_files import read_object

MAX_HEADER_BYTES = 100_000_000
"""The safetensors library's own limit (MAX_HEADER_SIZE in safetensors/src/tensor.rs)."""

_ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "F64": 8,
    "I64": 8,
    "U64": 8,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file: where it is and what it is."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.elements * _ITEM_BYTES[self.dtype]


def stored_tensors(files: tuple[Path, ...]) -> dict[str, StoredTensor]:
    """Every tensor of the files by name.

    Raises:
        ModelLoadError: a file is absent, cut short, damaged, or of no known element type.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        tensors.update(_read_header(file))
    return tensors


def _read_header(file: Path) -> dict[str, StoredTensor]:
    header, data_bytes = _header_and_data_bytes(file)
    header.pop("__metadata__", None)
    tensors: dict[str, StoredTensor] = {}
    declared = 0
    for name, entry in header.items():
        tensors[name], end = _tensor(file, name, entry)
        declared = max(declared, end)
    if declared != data_bytes:
        fault = "cut short" if data_bytes < declared else "longer than its header says"
        raise ModelLoadError(
            f"{file} is {fault}: its header declares {declared} bytes of weights, the file holds "
            f"{data_bytes}; download it again",
            code="model_file_truncated",
        )
    return tensors


def _header_and_data_bytes(file: Path) -> tuple[dict[str, Any], int]:
    try:
        with file.open("rb") as stream:
            total = file.stat().st_size
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, total - 8):
                raise ModelLoadError(
                    f"{file} ({total} bytes) is not a whole safetensors file: its header claims "
                    f"{length} bytes; download it again",
                    code="model_file_truncated",
                )
            header = json.loads(stream.read(length))
    except FileNotFoundError as error:
        raise ModelLoadError(
            f"{file} is absent; copy the whole model folder again", code="model_file_absent"
        ) from error
    except OSError as error:
        raise ModelLoadError(f"{file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ModelLoadError(f"{file} has a damaged header ({error}); download it again") from error
    if not isinstance(header, dict):
        raise ModelLoadError(f"{file} has a damaged header (not an object); download it again")
    return header, total - 8 - length


def _tensor(file: Path, name: str, entry: object) -> tuple[StoredTensor, int]:
    """The tensor and the offset behind its last byte."""
    if isinstance(entry, Mapping):
        shape, offsets, dtype = (entry.get(k) for k in ("shape", "data_offsets", "dtype"))
        if dtype not in _ITEM_BYTES:
            raise ModelLoadError(
                f"{file}: tensor {name!r} has element type {dtype!r}; known are "
                f"{', '.join(sorted(_ITEM_BYTES))}"
            )
        if _are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2:
            start, end = offsets
            if end - start == math.prod(shape) * _ITEM_BYTES[dtype]:
                return StoredTensor(file, dtype, tuple(shape)), end
    raise ModelLoadError(
        f"{file}: the header's entry for tensor {name!r} contradicts itself ({entry!r:.120}); "
        "download it again"
    )


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a model's folder: one, or shards.

    Raises:
        ModelLoadError: there are none, or what there is must not be read.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return (single,)
    if index.exists():
        names = read_object(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ModelLoadError(f"{index} has no weight_map; download it again")
        shards = sorted({str(name) for name in names.values()})
        if any(Path(name).name != name for name in shards):
            raise ModelLoadError(f"{index} names files outside its folder; do not use this model")
        return tuple(folder / name for name in shards)
    pickles = sorted(p.name for p in folder.glob("*") if p.suffix in {".bin", ".pt", ".pth"})
    if pickles:
        raise ModelLoadError(
            f"{folder} has only pickled weights ({', '.join(pickles)}), which can run code when "
            "read; convert them with transformers' save_pretrained(), which writes safetensors",
            code="model_weights_pickled",
        )
    raise ModelLoadError(
        f"{single} is absent; copy the whole model folder again", code="model_file_absent"
    )
