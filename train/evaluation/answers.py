"""Texts of answers compared: all of them, their last numbers, or what a pattern finds. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

from train.evaluation.options import EvaluationOptions

# with separators of thousands, as in GSM8K's answers ("#### 1,234"; Cobbe et al., arXiv 2110.14168)
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


def last_number(text: str) -> str | None:
    """The last number of a text, written as every other one of its value; None: it has none."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    # a normalised zero keeps its sign
    value = Decimal(found[-1].replace(",", "")).normalize() + 0
    return format(value, "f")


def last_match(pattern: str, text: str) -> str | None:
    """What a pattern finds at its last place, without needless white space; None: nothing."""
    found = list(re.finditer(pattern, text))
    if not found:
        return None
    piece = found[-1][1] if found[-1].re.groups else found[-1][0]
    return None if piece is None else " ".join(piece.split())


def essence(options: EvaluationOptions) -> Callable[[str], str | None]:
    """What has to be equal of an expected and a generated answer; None: it has no such thing."""
    if options.match == "last_number":
        return last_number
    pattern = options.pattern
    assert pattern is not None, "answers that must be equal in every token are not generated"
    return lambda text: last_match(pattern, text)
