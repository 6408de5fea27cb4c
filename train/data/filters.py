"""Rows that are left out for their quality: pure functions of one row."""

from __future__ import annotations

from collections.abc import Sequence

from train.data.options import QualityFilters
from train.data.problems import RowError


def check_quality(answers: Sequence[str], supervised: int, filters: QualityFilters) -> None:
    """Pass a row that is good enough.

    Args:
        answers: The texts that the row teaches.
        supervised: How many of its tokens are supervised.
        filters: What is good enough.

    Raises:
        RowError: it is not; the row is left out and counted.
    """
    if supervised < filters.min_answer_tokens:
        raise _low(
            f"{supervised} supervised tokens, fewer than filters.min_answer_tokens, "
            f"{filters.min_answer_tokens}"
        )
    most = filters.max_answer_tokens
    if most is not None and supervised > most:
        raise _low(f"{supervised} supervised tokens, more than filters.max_answer_tokens, {most}")
    share = repeated_lines(answers)
    if share > filters.max_repeated_lines:
        raise _low(
            f"{share:.0%} repeated lines, more than filters.max_repeated_lines, "
            f"{filters.max_repeated_lines:.0%}"
        )


def repeated_lines(texts: Sequence[str]) -> float:
    """Share of the lines that stand before in the same texts; empty lines do not count."""
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def _low(found: str) -> RowError:
    return RowError("quality", f"the row has {found}", "it is left out", stops=False)
