"""Texts, with labels or without, that a head is fitted to."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ironcliw.errors import DataError
from train.data.builders import checked_text
from train.data.problems import DataProblem, RowError, raise_if_any, shortened
from train.data.records import Record, parse
from train.data.sources import expand, read_bytes

_SHOWN = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeadText:
    """One text.

    Attributes:
        text: As the file has it.
        label: None where a teacher is to say.
        source: `file:line`.
    """

    text: str
    label: str | None
    source: str

    @property
    def key(self) -> bytes:
        """32 bytes that are equal for texts that are equal but for white space."""
        return text_key(self.text)


def text_key(text: str) -> bytes:
    """32 bytes that are equal for texts that are equal but for white space."""
    return hashlib.sha256(" ".join(text.split()).encode()).digest()


def read_texts(paths: Sequence[str], *, labelled: bool) -> list[HeadText]:
    """Rows of `text`, and `label` where there is no teacher; equal texts once.

    Args:
        paths: Files, folders, patterns or URIs.
        labelled: Whether each row must have a label; otherwise labels are not read.

    Raises:
        DataError: no file is found, rows are broken, or equal texts have different labels; the
            message names their lines.
    """
    found: dict[bytes, HeadText] = {}
    problems: list[DataProblem] = []
    for file in expand(paths):
        try:
            content = read_bytes(file)
        except OSError as error:
            raise DataError(f"{file} cannot be read ({error}); correct the path") from error
        for item in parse(file, content):
            if isinstance(item, DataProblem):
                problems.append(item)
                continue
            try:
                row = _row(item, f"{file}:{item.line}", labelled=labelled)
            except RowError as error:
                problems.append(error.at(file, item.line))
                continue
            first = found.setdefault(row.key, row)
            if first.label != row.label:
                problems.append(_two_labels(first, row).at(file, item.line))
    raise_if_any(problems)
    return list(found.values())


def without(rows: Sequence[HeadText], others: Sequence[HeadText]) -> list[HeadText]:
    """Rows to measure on that are not among those that are learned.

    Args:
        rows: To measure on.
        others: To learn from.

    Raises:
        DataError: none is left.
    """
    learned = {row.key: row for row in others}
    pairs = [(row, learned[row.key]) for row in rows if row.key in learned]
    if not pairs:
        return list(rows)
    places = ", ".join(f"{row.source} ({other.source})" for row, other in pairs[:_SHOWN])
    more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    told = f"{len(pairs)} texts to measure on are learned from, too: {places}{more}"
    left = [row for row in rows if row.key not in learned]
    if not left:
        raise DataError(f"{told}; none is left to measure on: hold other texts out")
    logger.warning("%s; they are not measured on", told)
    return left


def _two_labels(first: HeadText, row: HeadText) -> RowError:
    return RowError(
        "two-labels",
        f"it is the text of {first.source} with the label {shortened(row.label)}, there it has "
        f"{shortened(first.label)}",
        "decide which is right, and take the other one out",
    )


def _row(record: Record, source: str, *, labelled: bool) -> HeadText:
    if "text" not in record.value:
        raise RowError(
            "unknown-keys",
            f"the row's keys are {shortened(sorted(record.value))}, and text is not among them",
            "name the text's key text",
        )
    text = checked_text("text", record.value["text"])
    if not labelled:
        return HeadText(text, None, source)
    label = record.value.get("label")
    if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
        raise RowError(
            "bad-messages",
            f"label is {shortened(label)}",
            "give the label's name, or let a --teacher say it",
        )
    return HeadText(text, str(label), source)
