"""Tensors and state as bytes: safetensors files, and JSON that gives the same values back.

The header of a safetensors file is built here and not by its library, which would first make one
string of all tensors: these are written from where they lie, block by block, and every block's
write and hash leave Python's lock to the training thread. Files are read by the library.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from ironcliw.errors import CheckpointError, DamagedCheckpointError
from train.checkpoint.snapshot import Snapshot

BLOCK_BYTES = 4 << 20
"""Bytes of one write: long enough to leave Python's lock free, short enough to be stopped."""
STATE = "state.json"
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8
_GROUP = re.compile(r"[a-z][a-z0-9_]*")
_DEFAULT_GROUP = "tensors"


@dataclass(frozen=True, slots=True)
class Part:
    """A file to be written.

    Attributes:
        name: Within the checkpoint's folder.
        buffers: Its bytes, in order; they must not change until it is written.
    """

    name: str
    buffers: tuple[memoryview, ...]

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return sum(buffer.nbytes for buffer in self.buffers)

    def blocks(self) -> Iterator[memoryview]:
        """Its bytes in pieces of at most BLOCK_BYTES."""
        for buffer in self.buffers:
            for first in range(0, buffer.nbytes, BLOCK_BYTES):
                yield buffer[first : first + BLOCK_BYTES]


def parts_of(snapshot: Snapshot) -> list[Part]:
    """The files of a snapshot: one a group of tensors, then the state.

    Raises:
        CheckpointError: a tensor's name, type or device cannot be saved, or the state holds what
            JSON would change.
    """
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name in sorted(snapshot.tensors):
        group, slash, _ = name.partition("/")
        group = group if slash else _DEFAULT_GROUP
        if not _GROUP.fullmatch(group):
            raise CheckpointError(
                f"tensor {name!r} cannot be saved: what stands before the '/' names its file and "
                "must be lower-case letters, digits and underscores"
            )
        groups.setdefault(group, {})[name] = snapshot.tensors[name]
    parts = [tensors_part(f"{group}.safetensors", groups[group]) for group in sorted(groups)]
    return [*parts, Part(STATE, (memoryview(encode_state(snapshot.state)),))]


def tensors_part(name: str, tensors: Mapping[str, torch.Tensor]) -> Part:
    """A safetensors file of CPU tensors; contiguous ones are not copied.

    Raises:
        CheckpointError: a tensor is not on the CPU, or of a type that the format lacks.
    """
    header: dict[str, Any] = {}
    buffers: list[memoryview] = []
    end = 0
    # the widest first, so that every tensor is aligned, as the library does
    for key in sorted(tensors, key=lambda key: (-tensors[key].element_size(), key)):
        tensor = tensors[key].detach()
        kind = _DTYPES.get(tensor.dtype)
        if kind is None or tensor.device.type != "cpu":
            raise CheckpointError(
                f"tensor {key!r} is {tensor.dtype} on {tensor.device}; a checkpoint takes "
                f"{', '.join(str(dtype) for dtype in _DTYPES)}, on the CPU"
            )
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[key] = {"dtype": kind, "shape": [*tensor.shape], "data_offsets": [start, end]}
        if start < end:
            flat = tensor.contiguous().reshape(-1).view(torch.uint8)
            buffers.append(flat.numpy().data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return Part(name, (memoryview(len(text).to_bytes(8, "little") + text), *buffers))


def read_tensors(raw: bytes, location: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        DamagedCheckpointError: the bytes are no such file.
    """
    try:
        return safetensors.torch.load(raw)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedCheckpointError(f"{location} is no safetensors file: {error}") from error


def encode_state(state: Mapping[str, Any]) -> bytes:
    """JSON from which `decode_state` gives the same values, floats to the last bit.

    Python writes a float with as many digits as its value needs to be read back exactly. What is
    not finite is written as NaN, Infinity and -Infinity, which Python reads and strict JSON lacks.

    Raises:
        CheckpointError: a value would come back as another, as a tuple would (a list).
    """
    _check_value(dict(state), "state")
    return json.dumps(dict(state), indent=1).encode()


def decode_state(raw: bytes, location: str) -> dict[str, Any]:
    """What `encode_state` was given.

    Raises:
        DamagedCheckpointError: the bytes are not such JSON.
    """
    try:
        state = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{location} is no JSON: {error}") from error
    if not isinstance(state, dict):
        raise DamagedCheckpointError(f"{location} holds {type(state).__name__}, not an object")
    return state


def _check_value(value: Any, path: str) -> None:
    if type(value) is dict:
        for key, inner in value.items():
            if type(key) is not str:
                raise CheckpointError(
                    f"{path} has the key {key!r}, and JSON's keys are strings; make it one"
                )
            _check_value(inner, f"{path}[{key!r}]")
    elif type(value) is list:
        for index, inner in enumerate(value):
            _check_value(inner, f"{path}[{index}]")
    elif value is not None and type(value) not in (str, int, float, bool):
        raise CheckpointError(
            f"{path} is a {type(value).__name__}, which JSON would not give back as it is; use "
            "strings, integers, floats, booleans, None, lists and dictionaries, and put tensors "
            "among the snapshot's tensors"
        )
