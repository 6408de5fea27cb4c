"""Has files written to the medium, so that they survive the loss of power."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def sync(path: Path) -> None:
    """Have a file's content, or the names in a folder, written.

    Raises:
        OSError: it cannot be.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        sync_handle(handle)
    finally:
        os.close(handle)


def sync_handle(handle: int) -> None:
    """The same of what is open.

    Raises:
        OSError: it cannot be.
    """
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(handle)
        return
    try:
        # on macOS fsync stops at the drive's own cache
        fcntl.fcntl(handle, full)
    except OSError:  # a file system that lacks it, such as a network's
        os.fsync(handle)
