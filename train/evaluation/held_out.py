"""What tells one set of measures from another: its rows, how and when they are measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from train.data.tokenized import TokenizedData
from train.evaluation.options import EvaluationOptions
from train.fingerprint import digest_of

MEASURED_OF = "held_out"
"""In each evaluation's line of a log: the digest's first digits."""
DIGITS = 12
NOTHING = "none"
_DECIDING = {"gate", "gate_tolerance"}
"""What is done with the measures, not which they are."""


def held_out_digest(data: TokenizedData | None, options: EvaluationOptions) -> str:
    """A digest that two runs share if their measures can be compared.

    Args:
        data: The rows that are held out; None: there are none.
        options: What is measured, and how often.
    """
    if data is None or not len(data):
        return NOTHING
    return digest_of({"rows": data.digest, **options.model_dump(mode="json", exclude=_DECIDING)})


def before_and_after(
    lines: Sequence[Mapping[str, Any]],
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Of a log's evaluations, that of the base and the last one; None where there is none.

    A run that was resumed before its first step, with other rows, has two of its base.
    """
    of_base = [line for line in lines if line["step"] == 0]
    return of_base[-1] if of_base else None, lines[-1] if lines else None


def are_of_one_kind(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two evaluations of a run measured the same; lines of older releases do not say."""
    told = [line[MEASURED_OF] for line in (before, after) if MEASURED_OF in line]
    return len(set(told)) < 2
