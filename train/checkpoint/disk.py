"""What a folder of checkpoints asks of the system: locks, durable writes, reasons of failures."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_UNLOCKED_LEFTOVER_SECONDS = 24 * 3600.0
"""Where the file system has no locks, a partial folder is left alone so long."""
_HINTS = {
    errno.ENOSPC: "the disk is full: free some space, or name a folder on another disk",
    errno.EDQUOT: "the quota is used up: free some space, or name another folder",
    errno.EFBIG: "the file is larger than this process may write (ulimit -f)",
    errno.EACCES: "name a folder that this user may write to",
    errno.EPERM: "name a folder that this user may write to",
    errno.EROFS: "the file system is read-only: name another folder",
    errno.ENOTDIR: "a part of the path is a file: name another folder",
    errno.EEXIST: "a file has this name: name another folder",
    errno.ENOENT: "it has vanished: mount or make it again",
    errno.EIO: "the disk reports an error: use another one",
}


@contextmanager
def made_and_locked(path: Path) -> Iterator[None]:
    """A new folder that no other process takes for a leftover while the block runs."""
    while True:
        path.mkdir()
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # a process that began just now took it for a leftover
        try:
            lock(handle, fcntl.LOCK_EX)
            if path.exists():  # as above, between its opening and its locking
                yield
                return
        finally:
            os.close(handle)


def lock(handle: int, operation: int) -> bool:
    """Whether the file system has locks; BlockingIOError where another process holds it."""
    try:
        fcntl.flock(handle, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def remove_if_abandoned(path: Path) -> bool:
    """Remove a folder that nobody holds the lock of, and tell whether it was so."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        locks = lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        age = time.time() - os.fstat(handle).st_mtime
        if not locks and age < _UNLOCKED_LEFTOVER_SECONDS:
            return False
        shutil.rmtree(path, ignore_errors=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


def reason(error: OSError) -> str:
    """What went wrong, and what to do about it."""
    hint = _HINTS.get(error.errno or 0)
    return f"{error}; {hint}" if hint else str(error)
