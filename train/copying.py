"""A folder copied file by file, so that an error says which file it was and what went wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def copy_folder(
    source: Path, target: Path, leave: Callable[[Path], bool] = lambda path: False
) -> None:
    """Copy all files below a folder; links become what they lead to.

    `shutil.copytree` collects errors, and keeps of each nothing but its text.

    Args:
        source: What is copied.
        target: Made where it is not there; what is in it stays.
        leave: Files and folders that are left out.

    Raises:
        OSError: the first file or folder that cannot be read or written.
    """
    target.mkdir(parents=True, exist_ok=True)
    with os.scandir(source) as found:
        entries = sorted(Path(entry.path) for entry in found)
    for path in entries:
        if leave(path):
            continue
        if path.is_dir():
            copy_folder(path, target / path.name, leave)
        else:
            shutil.copyfile(path, target / path.name)
