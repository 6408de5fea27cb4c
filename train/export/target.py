"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ironcliw.errors import ConflictError, StoreError


@contextlib.contextmanager
def whole(target: Path, *, force: bool = False, room: int = 0) -> Iterator[Path]:
    """A path to write a file or a folder at, which gets its own name when the block ends.

    What was written is on the disk before that. After an error nothing is left of it, and what was
    there before is still there; a process that is killed leaves a folder `.NAME.*.partial`.

    Args:
        target: Of the file or folder.
        force: Replace what is there.
        room: Bytes that will be written; 0: not known.

    Raises:
        ConflictError: something is there already.
        StoreError: it cannot be written, or the disk has no room.
    """
    if _exists(target) and not force:
        raise ConflictError(
            f"{target} exists already; name another place, or give --force to replace it",
            code="target_exists",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < room:
            raise StoreError(
                f"{target} would have about {room / 1e9:.2f} GB, and the disk has "
                f"{free / 1e9:.2f} GB free; make room, or name a place on another disk",
                code="disk_full",
            )
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}.", suffix=".partial", dir=target.parent
        ) as temporary:
            work = Path(temporary) / target.name
            yield work
            _sync(work)
            _replace(work, target, Path(temporary) / "before")
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise StoreError(
            f"{target} cannot be written ({error.strerror or error}); nothing is left of it: "
            + (
                "make room, or name a place on another disk"
                if full
                else "see that the folder is there and may be written"
            ),
            code="disk_full" if full else None,
        ) from error


def _exists(target: Path) -> bool:
    """An empty folder is as good as none."""
    if target.is_dir():
        return any(target.iterdir())
    return target.exists() or target.is_symlink()


def _replace(work: Path, target: Path, before: Path) -> None:
    if target.is_dir() or target.exists():
        target.rename(before)
    try:
        work.rename(target)
    except OSError:
        if before.exists():
            before.rename(target)
        raise
    _sync_one(target.parent)


def _sync(path: Path) -> None:
    for each in sorted(path.rglob("*")) if path.is_dir() else ():
        _sync_one(each)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
