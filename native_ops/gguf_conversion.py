"""GGUF files as Hugging Face folders, converted once and kept by the file's hash.

What the engines read is one format; what a GGUF file holds is decoded tensor by tensor, so that a
conversion needs little memory whatever the model's size.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import numpy.typing as npt

from ironcliw import __version__
from ironcliw.errors import ModelLoadError
from ironcliw.file_digests import file_digest
from ironcliw.json_files import json_or_none
from native_ops.gguf import GgufFile
from native_ops.gguf_architectures import TargetTensor, model_tensors
from native_ops.gguf_text import GgufText

FORMAT_VERSION = 1
MANIFEST = "ironcliw.json"

_CHUNK_NUMBERS = 1 << 22
"""Numbers decoded at a time: 16 MB in float32."""

_STORED = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("F32", 4)}
"""The safetensors name and the bytes of a number."""

logger = logging.getLogger(__name__)


def source_quantization(path: Path) -> str:
    """What most of the file's weights are stored as, e.g. "Q4_1".

    Raises:
        ModelLoadError: the file is absent, damaged or not GGUF.
    """
    return GgufFile.read(path).kind


def converted_folder(path: Path, cache_dir: Path) -> Path:
    """The model of a GGUF file as a Hugging Face folder, made at the first call and found after.

    Several processes may ask at once: one converts, the others wait for it.

    Args:
        path: The GGUF file.
        cache_dir: Where `converted/` is or will be.

    Raises:
        ModelLoadError: the file is absent, damaged or of a kind that is not supported, the cache
            was written by a newer release, or the disk is full.
    """
    root = cache_dir / "converted"
    try:
        root.mkdir(parents=True, exist_ok=True)
        digest = file_digest(path, root / "index")
        folder = root / digest[:32]
        if not _is_whole(folder):
            with _locked(root / f"{folder.name}.lock"):
                if not _is_whole(folder):
                    _convert_into(path, folder, digest)
    except OSError as error:
        raise ModelLoadError(
            f"{path} could not be converted into {root}: {error.strerror or error}; see that the "
            "folder can be written and the disk has room"
        ) from error
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether the folder is there, of our format, with every file of the length it was written."""
    manifest = json_or_none(folder / MANIFEST)
    if manifest is None:
        return False
    version = manifest.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ModelLoadError(
            f"{folder} was written in format {version} by ironcliw {manifest.get('made_by')}, this "
            f"release reads up to {FORMAT_VERSION}; update ironcliw, or remove the folder to have "
            "it made again",
            code="newer_format",
        )
    files = manifest.get("files")
    if version != FORMAT_VERSION or not isinstance(files, dict):
        return False
    sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.name in files}
    return sizes == files


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Hold the lock file, and remove it at the end; the system releases it however that comes."""
    while True:
        with lock.open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if not _is_file(stream, lock):
                continue  # who held it before has removed it: somebody may hold another by now
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_file(stream: TextIO, path: Path) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _convert_into(path: Path, folder: Path, digest: str) -> None:
    """Make the folder whole or not at all; called by one process at a time."""
    for left in folder.parent.glob(f"{folder.name}.*.partial"):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
    with tempfile.TemporaryDirectory(
        prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent
    ) as temporary:
        work = Path(temporary) / "model"
        work.mkdir()
        _write_folder(GgufFile.read(path), work, digest)
        if folder.exists():
            logger.warning("%s is damaged or of an older format and is replaced", folder)
            folder.rename(Path(temporary) / "replaced")
        work.rename(folder)
    logger.info("converted %s into %s", path, folder)


def _write_folder(file: GgufFile, folder: Path, digest: str) -> None:
    targets = model_tensors(file)
    dtype = _dtype(file)
    text = GgufText.of(file)
    _write_json(folder / "config.json", text.config | {"dtype": dtype})
    _write_json(folder / "generation_config.json", text.generation_config())
    _write_json(folder / "tokenizer_config.json", text.tokenizer_config())
    text.tokenizer.save(str(folder / "tokenizer.json"))
    _write_safetensors(file, targets, dtype, folder / "model.safetensors")
    manifest = {
        "format_version": FORMAT_VERSION,
        "source": file.path.name,
        "sha256": digest,
        "quantization": file.kind,
        "made_by": __version__,
        "files": {written.name: written.stat().st_size for written in folder.iterdir()},
    }
    _write_json(folder / MANIFEST, manifest)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _dtype(file: GgufFile) -> str:
    """One precision for the model: its own, or bf16 where the file's has no counterpart."""
    kinds = {tensor.kind for tensor in file.tensors.values()}
    if kinds - {"F32", "F16"}:
        return "bfloat16"
    return "float16" if "F16" in kinds else "float32"


def _write_safetensors(
    file: GgufFile, targets: list[TargetTensor], dtype: str, target_file: Path
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    name, itemsize = _STORED[dtype]
    end = 0
    for target in targets:
        shape = file.tensors[target.source].shape
        start, end = end, end + math.prod(shape) * itemsize
        header[target.name] = {
            "dtype": name,
            "shape": list(shape[::-1] if target.change == "transpose" else shape),
            "data_offsets": [start, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data starts at a multiple of 8
    with target_file.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for target in targets:
            _write_tensor(file, target, dtype, stream)
        stream.flush()
        os.fsync(stream.fileno())


def _write_tensor(file: GgufFile, target: TargetTensor, dtype: str, stream: BinaryIO) -> None:
    shape = file.tensors[target.source].shape
    order = row_order(file, target)
    if target.change == "transpose" or len(shape) == 1:
        values = file.dequantize(target.source)
        values = values.T if target.change == "transpose" else values[order]
        stream.write(_encoded(file, target, values, dtype).data)
        return
    step = max(1, _CHUNK_NUMBERS // shape[-1])
    for start in range(0, len(order), step):
        values = file.dequantize(target.source, order[start : start + step])
        stream.write(_encoded(file, target, values, dtype).data)


def row_order(file: GgufFile, target: TargetTensor) -> npt.NDArray[np.intp]:
    """Which stored row each row of the folder's tensor is.

    Raises:
        ModelLoadError: the heads cannot share the rows.
    """
    rows = file.tensors[target.source].shape[0]
    order = np.arange(rows)
    if target.change == "none":
        return order
    if rows % (2 * target.heads):
        raise ModelLoadError(
            f"{file.path}: {target.source!r} has {rows} rows, which {target.heads} attention heads "
            "cannot share; download it again"
        )
    # permute() in llama.cpp's convert_hf_to_gguf.py, the other way round
    return order.reshape(target.heads, -1, 2).swapaxes(1, 2).ravel()


def _encoded(
    file: GgufFile, target: TargetTensor, values: npt.NDArray[np.float32], dtype: str
) -> npt.NDArray[Any]:
    """The numbers as the folder stores them, in row-major order.

    numpy's own loops, not torch's: beside a serving process that holds the cores, torch's threads
    wait for each other in every one of hundreds of small steps.
    """
    values = np.ascontiguousarray(values)
    with np.errstate(all="ignore"):
        # one pass; finite weights do not add up beyond float32, and one bad number spoils the sum
        if not np.isfinite(values.sum()):
            raise ModelLoadError(
                f"{file.path}: tensor {target.source!r} holds infinite numbers or NaN; download it "
                "again"
            )
    if dtype != "bfloat16":
        return values.astype(dtype, copy=False)
    # to the nearest bf16, ties to even: add half of the last kept place, less one if it is even
    bits = values.view(np.uint32)
    rounded = (bits >> 16) & 1
    rounded += bits
    rounded += 0x7FFF
    return (rounded >> 16).astype("<u2")
