"""How often one model beats another, row by row, and how sure that is. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_Z = 1.959963984540054
"""Of a 95 % interval."""
TIE = 1e-6
"""Scores that are nearer than this, relative to their size, are equal: rounding decides no row."""


@dataclass(frozen=True, slots=True)
class WinRate:
    """One model against another on the same rows.

    Attributes:
        wins: Rows on which it scores higher.
        ties: Rows on which both score the same.
        rows: All of them.
        margin: Mean difference of the scores, in nats a row.
    """

    wins: int
    ties: int
    rows: int
    margin: float

    @property
    def rate(self) -> float:
        """Share of rows that are won; a tie is half of one."""
        return (self.wins + 0.5 * self.ties) / self.rows if self.rows else 0.5

    @property
    def interval(self) -> tuple[float, float]:
        """Where the rate lies with 95 % confidence (Wilson's score interval)."""
        if not self.rows:
            return 0.0, 1.0
        square = _Z * _Z / self.rows
        middle = (self.rate + square / 2) / (1 + square)
        spread = self.rate * (1 - self.rate) / self.rows + square / (4 * self.rows)
        half = _Z * math.sqrt(spread) / (1 + square)
        return max(0.0, middle - half), min(1.0, middle + half)

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the interval says so, else `even`."""
        low, high = self.interval
        return "better" if low > 0.5 else "worse" if high < 0.5 else "even"


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> WinRate:
    """Compare the scores of the same rows.

    Args:
        ours: Of one model; higher is better.
        theirs: Of the other.
    """
    wins = ties = 0
    total = 0.0
    for left, right in zip(ours, theirs, strict=True):
        total += left - right
        if math.isclose(left, right, rel_tol=TIE, abs_tol=TIE):
            ties += 1
        elif left > right:
            wins += 1
    rows = len(ours)
    return WinRate(wins, ties, rows, total / rows if rows else 0.0)
