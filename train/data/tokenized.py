"""Tokenised rows in three flat arrays, in memory or mapped from a folder.

    tokens      int32 [T]      all rows, one after the other
    supervised  bool  [T]      which tokens the model shall learn to write
    offsets     int64 [n + 1]  where each row starts
    files       int32 [n]      which of `names` each row comes from
    lines       int64 [n]      and from which line

As arrays they pass between Ray's workers without a copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ironcliw.errors import DataError, NewerFormatError
from train.data.masks import TokenRow

FORMAT_VERSION = 1
_HEADER = "data.json"
_DTYPES = {
    "tokens": np.dtype("<i4"),
    "supervised": np.dtype("|b1"),
    "offsets": np.dtype("<i8"),
    "files": np.dtype("<i4"),
    "lines": np.dtype("<i8"),
}
_MATTERS = ("tokens", "supervised", "offsets")
"""What decides how a model is trained; a file may be renamed."""


@dataclass(frozen=True)
class TokenizedData:
    """Rows as the model reads them.

    Attributes:
        tokens: int32 [T].
        supervised: bool [T]; the first token of a row never is.
        offsets: int64 [n + 1], from 0 to T.
        files: int32 [n], places in `names`.
        lines: int64 [n], counted from 1.
        names: The files that rows come from.
    """

    tokens: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    files: npt.NDArray[np.int32]
    lines: npt.NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def of_rows(
        cls, rows: Sequence[TokenRow], sources: Sequence[tuple[int, int]], names: Sequence[str]
    ) -> TokenizedData:
        """Of single rows.

        Args:
            rows: In the order of the data.
            sources: For each row its place in `names` and its line.
            names: The files.
        """
        places = np.array(sources, np.int64).reshape(len(rows), 2)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row.tokens) for row in rows], out=offsets[1:])
        return cls(
            _joined([row.tokens for row in rows], np.int32),
            _joined([row.supervised for row in rows], np.bool_),
            offsets,
            places[:, 0].astype(np.int32),
            places[:, 1].copy(),
            tuple(names),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> TokenRow:
        """One row; its arrays are views."""
        start, end = self.offsets[index], self.offsets[index + 1]
        return TokenRow(self.tokens[start:end], self.supervised[start:end])

    def source(self, index: int) -> str:
        """Where a row comes from, as `file:line`."""
        return f"{self.names[self.files[index]]}:{self.lines[index]}"

    def supervised_count(self, index: int) -> int:
        """How many tokens of a row are supervised."""
        return int(self.supervised_counts[index])

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, int64 [n]."""
        return np.diff(self.offsets)

    @cached_property
    def supervised_counts(self) -> npt.NDArray[np.int64]:
        """Supervised tokens of each row, int64 [n]."""
        before = np.zeros(len(self.supervised) + 1, np.int64)
        np.cumsum(self.supervised, out=before[1:])
        return np.diff(before[self.offsets])

    @cached_property
    def digest(self) -> str:
        """sha256 of tokens, masks and the rows' borders; names and lines do not count."""
        total = hashlib.sha256(b"ironcliw tokenised rows 1")
        for name in _MATTERS:
            array = np.ascontiguousarray(getattr(self, name), _DTYPES[name])
            total.update(len(array).to_bytes(8, "little"))
            total.update(array.data if len(array) else b"")
        return total.hexdigest()

    def save(self, folder: Path) -> None:
        """Write a folder, whole or not at all; one that is there already is replaced.

        Raises:
            DataError: it cannot be written.
        """
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                self._write(work)
                _put_in_place(work, folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        except OSError as error:
            raise DataError(
                f"the tokenised data could not be written to {folder} ({error.strerror or error}); "
                "see that the folder can be written and the disk has room"
            ) from error

    def _write(self, folder: Path) -> None:
        for name, dtype in _DTYPES.items():
            with (folder / f"{name}.npy").open("wb") as stream:
                np.save(stream, np.ascontiguousarray(getattr(self, name), dtype))
                stream.flush()
                os.fsync(stream.fileno())
        header = {
            "format_version": FORMAT_VERSION,
            "rows": len(self),
            "digest": self.digest,
            "names": list(self.names),
        }
        with (folder / _HEADER).open("w", encoding="utf-8") as stream:
            json.dump(header, stream, indent=2)
            stream.flush()
            os.fsync(stream.fileno())

    @classmethod
    def open(cls, folder: Path) -> TokenizedData:
        """Map a folder that `save` has written, after a check of its digest.

        Raises:
            DataError: it is absent or damaged.
            NewerFormatError: a newer release wrote it.
        """
        header = _header(folder)
        try:
            arrays = {
                name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                for name in _DTYPES
            }
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(folder, str(error)) from error
        for name, dtype in _DTYPES.items():
            if arrays[name].ndim != 1 or arrays[name].dtype != dtype:
                raise _damaged(folder, f"{name}.npy holds {arrays[name].dtype} {arrays[name].ndim}")
        found = cls(**arrays, names=tuple(header["names"]))
        _check_lengths(folder, found, header)
        if found.digest != header["digest"]:
            raise _damaged(
                folder, f"its digest is {found.digest}, and {header['digest']} was written"
            )
        return found


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def _put_in_place(work: Path, folder: Path) -> None:
    if folder.exists():
        replaced = work.with_name(f"{work.name}.replaced")
        folder.rename(replaced)
        work.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        work.rename(folder)
    handle = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _header(folder: Path) -> dict[str, Any]:
    try:
        header = json.loads((folder / _HEADER).read_bytes())
        version = header["format_version"]
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} holds no tokenised data ({_HEADER} is absent); give the folder that a run "
            "has written, or the data files"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{_HEADER}: {error}") from error
    if version != FORMAT_VERSION:
        raise NewerFormatError(
            f"{folder} holds tokenised data of format {version}, this release reads "
            f"{FORMAT_VERSION}; update ironcliw, or prepare the data again"
        )
    wanted: Iterable[tuple[str, type]] = (("rows", int), ("digest", str), ("names", list))
    if wrong := [name for name, kind in wanted if not isinstance(header.get(name), kind)]:
        raise _damaged(folder, f"{_HEADER} lacks {', '.join(wrong)}")
    return dict(header)


def _check_lengths(folder: Path, data: TokenizedData, header: dict[str, Any]) -> None:
    borders = data.offsets
    sound = (
        len(borders) > 0
        and len(data) == header["rows"] == len(data.files) == len(data.lines)
        and len(data.tokens) == len(data.supervised)
        and borders[0] == 0
        and borders[-1] == len(data.tokens)
        and bool((np.diff(borders) > 0).all())
        and (not len(data) or 0 <= data.files.min() <= data.files.max() < len(data.names))
    )
    if not sound:
        raise _damaged(folder, "its arrays do not fit each other")


def _damaged(folder: Path, found: str) -> DataError:
    return DataError(f"the tokenised data in {folder} is damaged ({found}); prepare it again")
