"""The files that a run names: folders, patterns and URIs, one by one and in a fixed order."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ironcliw.errors import DataError, UnsupportedError
from train.data.records import SUFFIXES, kind_of

_MAGIC = frozenset("*?[")
_SMALL_BYTES = 64 * 2**20


def is_remote(path: str) -> bool:
    """Whether a path is a URI of something else than this machine's files."""
    return "://" in path


def expand(paths: Sequence[str]) -> list[str]:
    """The files behind paths, each once, in the order of the paths and sorted within one.

    Raises:
        DataError: a path leads to no file; all such are named.
        UnsupportedError: a package that a URI needs is not installed.
    """
    found: dict[str, None] = {}
    missing = []
    for path in paths:
        files = _remote(path) if is_remote(path) else _local(path)
        if not files:
            missing.append(path)
        found.update(dict.fromkeys(files))
    if missing:
        raise DataError(
            f"no file is found at {', '.join(map(repr, missing))}; give files, folders or patterns "
            f"of {', '.join(SUFFIXES)} (the text forms also as .gz)"
        )
    if not found:
        raise DataError("no training data is named; set data.train to a file")
    return list(found)


def are_small(files: Sequence[str]) -> bool:
    """Whether files are read in one process: for so few bytes, to start tasks takes longer.

    Args:
        files: As `expand` gives them; those that are elsewhere are not small.
    """
    try:
        return sum(os.stat(file).st_size for file in files) <= _SMALL_BYTES
    except OSError:
        return False


def read_bytes(path: str) -> bytes:
    """All of a file.

    Raises:
        OSError: it cannot be read.
        UnsupportedError: a package that its URI needs is not installed.
    """
    if not is_remote(path):
        return Path(path).read_bytes()
    filesystem, inside = _filesystem(path)
    try:
        with filesystem.open(inside, "rb") as stream:
            content: bytes = stream.read()
    except Exception as error:  # each kind of storage raises its own, not all of them OSError
        raise OSError(str(error)) from error
    return content


def _local(path: str) -> list[str]:
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return sorted(str(file) for file in Path(path).iterdir() if kind_of(file.name) in SUFFIXES)
    if os.path.exists(path):
        return [path]
    return sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))


def _remote(path: str) -> list[str]:
    filesystem, inside = _filesystem(path)
    try:
        if _MAGIC & set(inside):
            names = filesystem.glob(inside)
        elif filesystem.isdir(inside):
            names = [name for name in filesystem.ls(inside, detail=False) if _is_data(name)]
        else:
            return [path] if filesystem.exists(inside) else []
    except Exception as error:  # each kind of storage raises its own
        raise DataError(
            f"{path} cannot be listed ({error}); correct the URI, or the rights of this machine"
        ) from error
    return sorted(filesystem.unstrip_protocol(name) for name in names)


def _is_data(name: str) -> bool:
    return kind_of(name) in SUFFIXES


def _filesystem(uri: str) -> tuple[Any, str]:
    scheme = uri.partition("://")[0]
    try:
        import fsspec

        open_uri: Callable[[str], tuple[Any, str]] = fsspec.core.url_to_fs
        return open_uri(uri)
    except ImportError as error:
        raise UnsupportedError(
            f"{uri!r} needs a package that is not installed ({error}); "
            "`pip install 'ironcliw[gcp]'` for gs://, `pip install s3fs` for s3://"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{uri!r} is of the unknown scheme {scheme!r} ({error}); give gs://, s3:// or a path"
        ) from error
