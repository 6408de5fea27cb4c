"""Files to records with the line that each starts on. Pure: bytes in, records and problems out.

Read are JSON lines (.jsonl, .ndjson), a JSON array of objects (.json), CSV and TSV with a heading,
and Parquet; the text forms also compressed by gzip. A Parquet file has no lines: its rows are
counted from 1.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from train.data.problems import DataProblem, Rule, shortened

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Record:
    """One row as the file has it.

    Attributes:
        line: Where it starts, counted from 1.
        value: Its keys and values.
    """

    line: int
    value: dict[str, Any]


def parse(file: str, content: bytes) -> Iterator[Record | DataProblem]:
    """The records of a file in its order, and what is wrong in their places.

    Args:
        file: Name, path or URI; its suffix says what the content is.
        content: All of its bytes.
    """
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            yield _problem(file, 0, "unreadable-file", f"its gzip data is damaged ({error})")
            return
    suffix = kind_of(file)
    if suffix == ".parquet":
        yield from _parquet(file, content)
    elif suffix in (".csv", ".tsv"):
        yield from _table(file, content, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".json" and content.removeprefix(_BOM).lstrip()[:1] == b"[":
        yield from _array(file, content)
    else:
        yield from _lines(file, content)


def kind_of(file: str) -> str:
    """The suffix that says what a file holds: `.jsonl` of `a/b.jsonl.gz`; may be another one."""
    return PurePosixPath(file.lower().removesuffix(".gz")).suffix


def _problem(file: str, line: int, rule: Rule, given: str, advice: str = "") -> DataProblem:
    return DataProblem(file, line, rule, given, advice or "mend the file, or write it again")


def _lines(file: str, content: bytes) -> Iterator[Record | DataProblem]:
    for number, raw in enumerate(content.removeprefix(_BOM).split(b"\n"), 1):
        if raw.strip():
            yield _line(file, number, raw)


def _line(file: str, number: int, raw: bytes) -> Record | DataProblem:
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _not_utf8(file, number, error)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        found = shortened(raw.decode("utf-8").strip())
        return _problem(
            file,
            number,
            "bad-json",
            f"the line is not JSON ({reason}{column}): {found}",
            "write one JSON object a line",
        )
    return _object(file, number, value)


def _not_utf8(file: str, line: int, error: UnicodeDecodeError) -> DataProblem:
    return _problem(
        file,
        line,
        "bad-utf8",
        f"byte {error.object[error.start]:#04x} is not UTF-8 ({error.reason})",
        "save the file as UTF-8",
    )


def _object(file: str, line: int, value: Any) -> Record | DataProblem:
    if not isinstance(value, dict):
        return _problem(
            file,
            line,
            "not-an-object",
            f"the row is {shortened(value)}, a {type(value).__name__}",
            "write an object with keys such as `messages`, or `prompt` and `completion`",
        )
    return Record(line, value)


def _array(file: str, content: bytes) -> Iterator[Record | DataProblem]:
    """A list of objects, one by one, since the library's parser keeps no line numbers."""
    try:
        text = content.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        yield _not_utf8(file, content.count(b"\n", 0, error.start) + 1, error)
        return
    decoder = json.JSONDecoder()
    at, line, counted = _past_space(text, text.index("[") + 1), 1, 0
    while not text.startswith("]", at):
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
            where = error.lineno if isinstance(error, json.JSONDecodeError) else line
            yield _broken_list(file, where, reason)
            return
        yield _object(file, line, value)
        at = _past_space(text, end)
        if text.startswith(",", at):
            at = _past_space(text, at + 1)
        elif not text.startswith("]", at):
            line += text.count("\n", counted, at)
            yield _broken_list(file, line, "',' or ']' is missing")
            return
    if text[at + 1 :].strip():
        line += text.count("\n", counted, at)
        yield _problem(file, line, "bad-json", "something follows the end of the list")


def _broken_list(file: str, line: int, reason: str) -> DataProblem:
    """Nothing after such a place can be told apart."""
    return _problem(file, line, "bad-json", f"the file is not JSON from here ({reason})")


def _past_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _table(file: str, content: bytes, delimiter: str) -> Iterator[Record | DataProblem]:
    try:
        text = content.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        yield _not_utf8(file, content.count(b"\n", 0, error.start) + 1, error)
        return
    csv.field_size_limit(sys.maxsize)  # a conversation may be longer than the library's 128 KB
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    heading: list[str] | None = None
    start = 1
    try:
        for row in rows:
            line, start = start, rows.line_num + 1
            if not row:
                continue
            if heading is None:
                heading = row
                if wrong := _heading_problem(file, line, heading):
                    yield wrong
                    return
            elif len(row) != len(heading):
                yield _problem(
                    file,
                    line,
                    "bad-csv",
                    f"the row has {len(row)} fields and the heading {len(heading)}",
                    "put quotes around fields that hold the delimiter or a line break",
                )
            else:
                yield Record(line, dict(zip(heading, map(_cell, row), strict=True)))
    except csv.Error as error:
        yield _problem(file, start, "bad-csv", f"the row cannot be read ({error})")


def _heading_problem(file: str, line: int, heading: list[str]) -> DataProblem | None:
    if len(set(heading)) == len(heading) and all(name.strip() for name in heading):
        return None
    return _problem(
        file,
        line,
        "bad-csv",
        f"the heading is {shortened(heading)}, in which a name is empty or stands twice",
        "give the first line a name of its own for each column",
    )


def _cell(text: str) -> Any:
    """A cell that holds a list of turns is JSON; any other is text."""
    if text.startswith("[{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def _parquet(file: str, content: bytes) -> Iterator[Record | DataProblem]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(io.BytesIO(content))
        number = 0
        for batch in opened.iter_batches(1024):
            for value in batch.to_pylist():
                number += 1
                yield Record(number, value)
    except (pa.ArrowException, OSError) as error:
        yield _problem(file, 0, "unreadable-file", f"it is not a sound Parquet file ({error})")
