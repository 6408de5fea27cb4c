"""Reading texts from a file or standard input, and writing a result file in one step."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from ironcliw.errors import RequestError

STANDARD_INPUT = "-"


def read_texts(name: str) -> list[str]:
    """The texts of a file, one a line.

    All lines are read and checked before any is used, so that a bad one costs no work.

    Args:
        name: A path, or `-` for standard input.

    Raises:
        RequestError: the file cannot be read, has no line, or a line is empty or not UTF-8; the
            message names the line.
    """
    if name == STANDARD_INPUT:
        return _lines(sys.stdin.buffer, "standard input")
    try:
        with open(name, "rb") as stream:
            return _lines(stream, name)
    except OSError as error:
        raise RequestError(f"{name}: cannot be read: {error.strerror}") from error


def piped_text(argument: str) -> str:
    """Standard input as one text.

    Args:
        argument: What could be given instead, for messages.

    Raises:
        RequestError: it is empty or not UTF-8.
    """
    try:
        text = sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"standard input is not UTF-8 at byte {error.start}; convert it, for example with iconv"
        ) from error
    if not text:
        raise RequestError(
            f"standard input is empty; give a {argument}, or a text on standard input"
        )
    return text


def _lines(stream: BinaryIO, name: str) -> list[str]:
    texts = []
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise RequestError(
                f"{name}:{number}: not UTF-8 at byte {error.start}; convert the file, for example "
                "with iconv"
            ) from error
        if not text.strip():
            raise RequestError(f"{name}:{number}: the line is empty; remove it")
        texts.append(text)
    if not texts:
        raise RequestError(f"{name}: no text in it; write one text a line")
    return texts


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Write a file beside the path and put it in place at the end: nobody sees half of it.

    Raises:
        RequestError: the folder does not exist or may not be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    except OSError as error:
        raise RequestError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            yield stream
        os.replace(temporary, path)
    finally:
        # gone already where all went well
        Path(temporary).unlink(missing_ok=True)
