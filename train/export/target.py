"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ironcliw.durable import sync
from ironcliw.errors import ConflictError, ModelLoadError, StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def whole(target: Path, *, force: bool = False, room: int = 0) -> Iterator[Path]:
    """A path to write a file or a folder at, which gets its own name when the block ends.

    What was written is on the disk before that. The folder that the path is in is the block's own,
    for what it needs for a while. After an error nothing is left of it, and what was there before
    is still there; a process that is killed leaves a folder `.NAME.*.partial`.

    Args:
        target: Of the file or folder.
        force: Replace what is there.
        room: Bytes that will be written; 0: not known.

    Raises:
        ConflictError: something is there already.
        ModelLoadError: what the block reads cannot be read.
        StoreError: it cannot be written, or the disk has no room.
    """
    if _exists(target) and not force:
        raise ConflictError(
            f"{target} exists already; name another place, or give --force to replace it",
            code="target_exists",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_room(target, target.parent, room, "name a place on another disk")
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}.", suffix=".partial", dir=target.parent
        ) as temporary:
            work = Path(temporary) / target.name
            try:
                yield work
            except OSError as error:
                _tell_of_source(error, Path(temporary))
                raise
            _sync(work)
            _replace(work, target, Path(temporary) / "before")
    except OSError as error:
        full = error.errno in _FULL
        raise StoreError(
            f"{target} cannot be written ({error.strerror or error}); nothing is left of it: "
            + (
                "make room, or name a place on another disk"
                if full
                else "see that the folder is there and may be written"
            ),
            code="disk_full" if full else None,
        ) from error


@contextlib.contextmanager
def staging(folder: Path, room: int = 0) -> Iterator[Path]:
    """A new folder below another one, for what is sent elsewhere; it is removed at the end.

    Args:
        folder: Below it; made where it is not there.
        room: Bytes that will be written; 0: not known.

    Raises:
        StoreError: the disk has no room.
    """
    advice = "give the state directory a larger disk (IRONCLIW_STATE_DIR)"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(folder, folder, room, advice)
        with tempfile.TemporaryDirectory(prefix="staged-", dir=folder) as temporary:
            yield Path(temporary)
    except OSError as error:
        if error.errno not in _FULL:
            raise  # of the network, say: the block is not for writing alone
        raise StoreError(
            f"{folder} has no room ({error.strerror}), where files are gathered before they are "
            f"sent: make room, or {advice}",
            code="disk_full",
        ) from error


def _check_room(what: Path, folder: Path, room: int, advice: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < room:
        raise StoreError(
            f"{what} would have about {room / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} GB "
            f"free; make room, or {advice}",
            code="disk_full",
        )


def _tell_of_source(error: OSError, written: Path) -> None:
    """Raise ModelLoadError for an error of a file that is only read."""
    # a copy that fails names both files, and a disk that is full is the one that is written
    named = error.filename
    if error.errno in _FULL or not isinstance(named, str) or error.filename2 is not None:
        return
    if not Path(named).is_relative_to(written):
        raise ModelLoadError(
            f"{named} cannot be read ({error.strerror or error}); see that it is there and may be "
            "read"
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
    sync(target.parent)


def _sync(path: Path) -> None:
    for each in sorted(path.rglob("*")) if path.is_dir() else ():
        sync(each)
    sync(path)
