"""What the commands of `python -m rl` share: kinds of arguments, and files that they write."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ironcliw.errors import SettingsError


def count(text: str) -> int:
    """A whole number from 1; for `type=` of argparse."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count; give 1 or more")
    return number


def seed(text: str) -> int:
    """A whole number from 0; likewise."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; give a whole number from 0")
    return int(text)


def check_place(*paths: Path | None) -> None:
    """Refuse what could not be written after an hour of work.

    Raises:
        SettingsError: the folder is absent or not to be written to, or the path is one itself.
    """
    for path in paths:
        if path is None:
            continue
        folder = path.parent
        if path.is_dir():
            raise SettingsError(f"{path} is a folder; give the name of a file in it")
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            why = "may not be written to" if folder.is_dir() else "does not exist"
            raise SettingsError(f"{path} cannot be written: folder {folder} {why}; make it first")


def write(path: Path, text: str) -> None:
    """A text into a file.

    Raises:
        SettingsError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path} cannot be written ({error.strerror})") from error
