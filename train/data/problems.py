"""What can be wrong with training data. Problems are collected, so that one run shows them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ironcliw.errors import DataError

Rule = Literal[
    "unreadable-file",
    "no-rows",
    "bad-utf8",
    "bad-json",
    "bad-csv",
    "not-an-object",
    "unknown-keys",
    "mixed-schema",
    "bad-messages",
    "unknown-role",
    "misplaced-system",
    "two-systems",
    "no-assistant-turn",
    "empty-content",
    "template-refuses",
    "prompt-not-prefix",
    "no-end-of-turn",
    "zero-supervised",
    "equal-answers",
    "equal-texts",
    "two-labels",
    "over-length",
    "duplicate",
    "in-eval-too",
    "quality",
]
SHOWN = 20
"""How many problems an error names; the others are counted."""


@dataclass(frozen=True, slots=True)
class DataProblem:
    """One thing that is wrong at one place.

    Attributes:
        file: As it was given.
        line: Counted from 1, where the row starts; the row's number in a Parquet file; 0: the
            whole file.
        rule: Which rule is broken.
        given: What was found.
        advice: What to do.
        stops: Whether a run refuses the data for it; otherwise it is counted and reported.
    """

    file: str
    line: int
    rule: Rule
    given: str
    advice: str
    stops: bool = True

    @property
    def place(self) -> str:
        """`file:line`, as editors and compilers write it."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        return f"{self.place}: {self.given}; {self.advice} [{self.rule}]"


class RowError(Exception):
    """A row breaks a rule; what reads the row adds file and line."""

    def __init__(self, rule: Rule, given: str, advice: str, *, stops: bool = True) -> None:
        super().__init__(f"{given}; {advice} [{rule}]")
        self.rule = rule
        self.given = given
        self.advice = advice
        self.stops = stops

    def at(self, file: str, line: int) -> DataProblem:
        """The same as a problem of a place."""
        return DataProblem(file, line, self.rule, self.given, self.advice, self.stops)


def counts_by_rule(problems: Iterable[DataProblem]) -> dict[str, int]:
    """How often each rule is broken, the most frequent first."""
    return dict(Counter[str](problem.rule for problem in problems).most_common())


def raise_if_any(problems: Sequence[DataProblem]) -> None:
    """Stop for the problems that stop a run.

    Raises:
        DataError: there is one; the message shows the first twenty and the count by rule.
    """
    stopping = [problem for problem in problems if problem.stops]
    if not stopping:
        return
    counts = counts_by_rule(stopping)
    total = ", ".join(f"{rule} {count}" for rule, count in counts.items())
    lines = [f"the training data has {len(stopping)} problem(s): {total}"]
    lines += [str(problem) for problem in stopping[:SHOWN]]
    if len(stopping) > SHOWN:
        lines.append(
            f"... and {len(stopping) - SHOWN} more; `ironcliw train data check FILE` shows them all"
        )
    raise DataError("\n".join(lines), counts=counts)


def shortened(value: object, most: int = 60) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
