"""What tells one set of weights from another: the SHA-256 of its files.

An adapter belongs to the weights that it was trained on, and to no others of the same shape; its
record names them by `weights_digest`, and so does whoever loads it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from ironcliw.encoder_folder import transformer_folder
from ironcliw.errors import ModelLoadError
from ironcliw.json_files import json_or_none, replace_json

_INDEX_FORMAT = 1
_WEIGHTS = ("*.safetensors", "config.json")


def weights_digest(path: Path, index: Path | None = None) -> str:
    """Of a model's weights, wherever they lie.

    Args:
        path: A GGUF file, or a folder in Hugging Face's format, of which weights and configuration
            count.
        index: As of `file_digest`.

    Raises:
        ModelLoadError: there are no weights.
    """
    if not path.is_dir():
        return file_digest(path, index)
    if (path / "modules.json").exists() and not any(path.glob(_WEIGHTS[0])):
        # sentence-transformers may put the transformer into a folder of its own
        path = transformer_folder(path)
    files = {file for pattern in _WEIGHTS for file in path.glob(pattern)}
    if not any(file.suffix == ".safetensors" for file in files):
        raise ModelLoadError(
            f"{path} has no *.safetensors; copy the whole model folder again",
            code="model_file_absent",
        )
    return files_digest(files, index)


def files_digest(files: Iterable[Path], index: Path | None = None) -> str:
    """Over names and contents of files, in whatever order they are given.

    Args:
        files: Of one folder.
        index: As of `file_digest`.

    Raises:
        ModelLoadError: one is absent.
    """
    total = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        total.update(f"{file.name} {file_digest(file, index)}\n".encode())
    return total.hexdigest()


def file_digest(path: Path, index: Path | None = None) -> str:
    """SHA-256 of a file, in hexadecimal.

    Args:
        path: The file.
        index: Folder of digests that are known. A file that has its path, size, time and inode of
            before is not read again; None: it is read.

    Raises:
        ModelLoadError: the file is absent.
    """
    try:
        state = path.stat()
        if index is None:
            return _read_digest(path)
    except FileNotFoundError as error:
        raise ModelLoadError(
            f"{path} is absent; copy the model file again", code="model_file_absent"
        ) from error
    where = str(path.resolve())
    known = [where, state.st_size, state.st_mtime_ns, state.st_ino]
    entry = index / f"{hashlib.sha256(os.fsencode(where)).hexdigest()[:32]}.json"
    content = json_or_none(entry)
    if content is not None and content.get("file") == known:
        digest = content.get("sha256")
        if isinstance(digest, str) and len(digest) == 64:
            return digest
    digest = _read_digest(path)
    index.mkdir(parents=True, exist_ok=True)
    replace_json(entry, {"format_version": _INDEX_FORMAT, "file": known, "sha256": digest})
    return digest


def _read_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
