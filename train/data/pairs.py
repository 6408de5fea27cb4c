"""Two answers to one prompt as one row of tokens: the prompt once, then one answer after the other.

    prompt | chosen | rejected
           0        1            the row's borders

The model computes the prompt once for both (prefix sharing, arXiv 2410.20305): the rejected answer
attends to the prompt and to itself, at the positions that it would have behind the prompt.
"""

from __future__ import annotations

import numpy as np

from train.data.examples import Preference
from train.data.masks import TokenRow, tokenize
from train.data.problems import RowError
from train.tokenizer import TrainingTokenizer


def tokenize_pair(
    example: Preference, tokenizer: TrainingTokenizer, *, plain_text: bool = False
) -> TokenRow:
    """Tokens, mask and borders of a preference.

    Args:
        example: What it says.
        tokenizer: Of the model.
        plain_text: As `train.data.masks.tokenize` has it.

    Raises:
        RowError: an answer cannot be tokenised, or both have the same tokens.
        ModelLoadError: as `tokenize`.
    """
    chosen = tokenize(example.chosen, tokenizer, plain_text=plain_text)
    rejected = tokenize(example.rejected, tokenizer, plain_text=plain_text)
    # what is supervised belongs to an answer, what differs does in any case
    shared = min(_common(chosen, rejected), _first(chosen), _first(rejected))
    if shared == 0:
        raise RowError(
            "prompt-not-prefix",
            "the two conversations have no token in common at their beginning",
            "give both the same prompt",
        )
    return _joined(chosen, rejected, shared)


def length_of(row: TokenRow) -> int:
    """Tokens of a row as `max_length` counts them: of a preference, the prompt and one answer."""
    if row.borders is None:
        return len(row.tokens)
    first, second = row.borders
    return max(second, first + len(row.tokens) - second)


def cut(row: TokenRow, most: int) -> TokenRow:
    """A row without the tokens from place `most` on.

    Raises:
        RowError: nothing would be left to learn from.
    """
    if row.borders is None:
        kept = TokenRow(row.tokens[:most], row.supervised[:most])
    else:
        first, second = row.borders
        if first >= most:
            raise RowError(
                "over-length",
                f"the prompt alone has {first} tokens, and max_length is {most}",
                "it is left out; shorten the prompt, or raise max_length",
            )
        sides = np.arange(second) < most, np.arange(second, len(row.tokens)) < most + second - first
        keep = np.concatenate(sides)
        tokens, supervised = row.tokens[keep], row.supervised[keep]
        kept = TokenRow(tokens, supervised, (first, min(second, most)))
        if _equal(kept):
            raise RowError(
                "equal-answers",
                f"cut to max_length, {most}, chosen and rejected are the same",
                "it is left out; raise max_length",
            )
    parts = [kept.supervised]
    if kept.borders is not None:
        parts = [kept.supervised[: kept.borders[1]], kept.supervised[kept.borders[1] :]]
    if not all(part.any() for part in parts):
        raise RowError(
            "over-length",
            "no supervised token would be left",
            "it is left out; raise max_length",
        )
    return kept


def _joined(chosen: TokenRow, rejected: TokenRow, shared: int) -> TokenRow:
    row = TokenRow(
        np.concatenate([chosen.tokens, rejected.tokens[shared:]]),
        np.concatenate([chosen.supervised, rejected.supervised[shared:]]),
        (shared, len(chosen.tokens)),
    )
    if _equal(row):
        raise RowError(
            "equal-answers",
            "chosen and rejected have the same tokens",
            "it is left out",
            stops=False,
        )
    return row


def _equal(row: TokenRow) -> bool:
    assert row.borders is not None
    first, second = row.borders
    return np.array_equal(row.tokens[first:second], row.tokens[second:])


def _common(a: TokenRow, b: TokenRow) -> int:
    """How many tokens two rows begin with alike."""
    most = min(len(a.tokens), len(b.tokens))
    differing = np.flatnonzero(a.tokens[:most] != b.tokens[:most])
    return int(differing[0]) if len(differing) else most


def _first(row: TokenRow) -> int:
    return int(np.flatnonzero(row.supervised)[0])
