"""What `train data check` tells about files: counts, and one row with its mask."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.text import Text

from ironcliw.errors import SettingsError
from train.data.options import DataOptions
from train.data.prepare import Prepared
from train.data.problems import counts_by_rule
from train.data.tokenized import TokenizedData
from train.tokenizer import TrainingTokenizer

PERCENTILES = (5, 50, 95, 99, 100)


@dataclasses.dataclass(frozen=True, slots=True)
class ShownRow:
    """One row as the model reads it.

    Attributes:
        source: `file:line`.
        pieces: The text of each token.
        supervised: Which of them the model shall learn to write.
    """

    source: str
    pieces: tuple[str, ...]
    supervised: tuple[bool, ...]

    def spans(self) -> Iterator[tuple[bool, str]]:
        """Neighbours that are alike, joined."""
        pairs = zip(self.supervised, self.pieces, strict=True)
        for taught, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
            yield taught, _visible("".join(piece for _, piece in group))

    def marked(self) -> str:
        """For a pipe: supervised spans in double brackets."""
        return "".join(f"[[{text}]]" if taught else text for taught, text in self.spans())

    def coloured(self) -> Text:
        """For a terminal: supervised spans in colour, what is only read dimmed."""
        shown = Text()
        for taught, text in self.spans():
            shown.append(text, "bold green" if taught else "dim")
        return shown


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
    pieces = tokenizer.pieces(row.tokens.tolist())
    return ShownRow(data.source(index), tuple(pieces), tuple(row.supervised.tolist()))


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
        "over_length": rules.get("over-length", 0),
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
        ("supervised tokens", f"{counts['supervised_tokens']:,}" + _percent(share)),
        ("tokens of a row", _line(counts["length_percentiles"])),
        ("supervised of a row", _line(counts["answer_percentiles"])),
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
