"""What `train data check` tells about files: counts, and one row as the model reads it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.text import Text

from ironcliw.errors import SettingsError
from train.data.masks import TokenRow
from train.data.options import DataOptions
from train.data.prepare import Prepared
from train.data.problems import counts_by_rule
from train.data.tokenized import TokenizedData
from train.tokenizer import TrainingTokenizer

PERCENTILES = (5, 50, 95, 99, 100)
LEARNT = "what the model shall learn to write is marked"
_PREFERRED = "the answers are marked, of which the model shall learn to prefer the first"
_COMPARED = "the texts whose vectors are compared"


@dataclasses.dataclass(frozen=True, slots=True)
class ShownRow:
    """One row as the model reads it.

    Attributes:
        source: `file:line`.
        pieces: The text of each token.
        supervised: Which of them the model shall learn to write.
        parts: Where each part begins and what it is, such as the two answers of a preference;
            none: the row is one whole.
        told: What is shown, for the line before it.
    """

    source: str
    pieces: tuple[str, ...]
    supervised: tuple[bool, ...]
    parts: tuple[tuple[int, str], ...] = ()
    told: str = LEARNT

    def marked(self) -> str:
        """For a pipe: supervised spans in double brackets."""
        return "".join(
            caption + "".join(f"[[{text}]]" if taught else text for taught, text in spans)
            for caption, spans in self._parts()
        )

    def coloured(self) -> Text:
        """For a terminal: supervised spans in colour, what is only read dimmed."""
        shown = Text()
        for caption, spans in self._parts():
            shown.append(caption)
            for taught, text in spans:
                shown.append(text, "bold green" if taught else "dim")
        return shown

    def _parts(self) -> Iterator[tuple[str, Iterator[tuple[bool, str]]]]:
        """Each part's caption on a line of its own, and its spans."""
        ends = [at for at, _ in self.parts[1:]] + [len(self.pieces)]
        if not self.parts or self.parts[0][0]:
            yield "", self._spans(0, self.parts[0][0] if self.parts else len(self.pieces))
        for (start, name), end in zip(self.parts, ends, strict=False):
            line = "\n" if start else ""
            space = "" if self.pieces[start].startswith(" ") else " "
            yield f"{line}{name}:{space}", self._spans(start, end)

    def _spans(self, start: int, end: int) -> Iterator[tuple[bool, str]]:
        """Neighbours that are alike, joined."""
        pairs = zip(self.supervised[start:end], self.pieces[start:end], strict=True)
        for taught, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
            yield taught, _visible("".join(piece for _, piece in group))


def _visible(text: str) -> str:
    """Control characters written out: data must not steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def show_row(data: TokenizedData, index: int, tokenizer: TrainingTokenizer) -> ShownRow:
    """One row of the data.

    Raises:
        SettingsError: there is no row of that number.
    """
    if not 0 <= index < len(data):
        raise SettingsError(
            f"--row is {index}, and the rows that would be trained on are 0 to {len(data) - 1}"
        )
    row = data.row(index)
    pieces = tuple(tokenizer.pieces(row.tokens.tolist()))
    parts, told = _parts_of(row)
    return ShownRow(data.source(index), pieces, tuple(row.supervised.tolist()), parts, told)


def _parts_of(row: TokenRow) -> tuple[tuple[tuple[int, str], ...], str]:
    """Where the parts of a row begin and what they are, and what is to be said of the row."""
    if row.borders is not None:
        return tuple(zip(row.borders, ("chosen", "rejected"), strict=True)), _PREFERRED
    if row.starts is not None:
        first = ("text", "label") if row.labelled else ("anchor", "positive")
        names = [*first, *["negative"] * (len(row.starts) - 2)]
        return tuple(zip(row.starts, names, strict=True)), _COMPARED
    return (), LEARNT


def facts(found: Prepared, options: DataOptions) -> dict[str, Any]:
    """Every count of the check, for the table and for `--json`."""
    report, train = found.report, found.train
    tokens, supervised = len(train.tokens), int(train.supervised.sum())
    rules = counts_by_rule(report.problems)
    return {
        "rows": report.rows,
        "trained_on": len(train),
        "held_out": 0 if found.eval is None else len(found.eval),
        "left_out": report.left_out,
        "tokens": tokens,
        "supervised_tokens": supervised,
        "supervised_share": round(supervised / tokens, 4) if tokens else None,
        "length_percentiles": _percentiles(np.array(report.lengths)),
        "answer_percentiles": _percentiles(train.supervised_counts),
        "max_length": options.max_length,
        "over_length": sum(length > options.max_length for length in report.lengths),
        "duplicates": report.duplicates,
        "ignored_keys": report.ignored,
        "problems_by_rule": rules,
        "stopping": report.stopping,
        "digest": train.digest,
    }


def table(counts: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of the printed table."""
    share = counts["supervised_share"]
    rows = [
        ("rows in the files", f"{counts['rows']:,}"),
        ("rows to train on", f"{counts['trained_on']:,}"),
    ]
    if counts["held_out"]:
        rows.append(("rows held out", f"{counts['held_out']:,}"))
    rows += [(f"rows left out: {rule}", f"{n:,}") for rule, n in counts["left_out"].items()]
    rows += [
        ("tokens", f"{counts['tokens']:,}"),
        ("tokens of a row", _line(counts["length_percentiles"])),
    ]
    if counts["supervised_tokens"]:  # there are none where texts are compared
        rows += [
            ("supervised tokens", f"{counts['supervised_tokens']:,}" + _percent(share)),
            ("supervised of a row", _line(counts["answer_percentiles"])),
        ]
    rows += [
        (f"rows over {counts['max_length']} tokens", f"{counts['over_length']:,}"),
        ("duplicates", f"{counts['duplicates']:,}"),
    ]
    rows += [(f"key not read: {key}", f"{n:,} rows") for key, n in counts["ignored_keys"].items()]
    rows.append(("problems that stop a run", f"{counts['stopping']:,}"))
    return rows


def _percent(share: float | None) -> str:
    return "" if share is None else f" ({share:.1%})"


def _percentiles(values: Any) -> dict[str, int]:
    if not len(values):
        return {}
    found = np.percentile(values, PERCENTILES, method="inverted_cdf")
    return {f"p{p}": int(value) for p, value in zip(PERCENTILES, found, strict=True)}


def _line(percentiles: dict[str, int]) -> str:
    """`median 210, 5 % 80, 95 % 400, 99 % 600, most 812`."""
    if not percentiles:
        return "-"
    names = {"p50": "median", "p100": "most"}
    ordered = ["p50", *(name for name in percentiles if name != "p50")]
    return ", ".join(f"{names.get(n, n[1:] + ' %')} {percentiles[n]}" for n in ordered)
