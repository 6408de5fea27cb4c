"""What an evaluation asks and expects, from tokenised rows.

The expected answer of a row is its last supervised span: of a conversation the last answer with its
end of turn. All before it is what the model is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.data.plan import PackedBatch
from train.data.tokenized import TokenizedData
from train.tokenizer import TrainingTokenizer

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A row as it is asked.

    Attributes:
        prompt: Tokens that are given.
        answer: Tokens that are expected.
    """

    prompt: Tokens
    answer: Tokens


def question(data: TokenizedData, index: int) -> Question:
    """Of a row; nothing follows its last supervised token."""
    row = data.row(index)
    others = np.flatnonzero(~row.supervised)
    first = int(others[-1]) + 1  # the first token of a row is never supervised
    tokens = row.tokens.tolist()
    return Question(tuple(tokens[:first]), tuple(tokens[first:]))


def answers(data: TokenizedData) -> list[Tokens]:
    """The expected answers of all rows, each once, in the order in which they come first.

    A second for some million rows: every worker looks for them at each start.
    """
    others = np.flatnonzero(~data.supervised)
    # of each row, the place behind its last token that is not supervised; the first never is
    starts = others[np.searchsorted(others, data.offsets[1:]) - 1] + 1
    tokens = np.ascontiguousarray(data.tokens, np.int32)
    spans = zip(starts.tolist(), data.offsets[1:].tolist(), strict=True)
    found = dict.fromkeys(tokens[start:end].tobytes() for start, end in spans)
    return [tuple(np.frombuffer(each, np.int32).tolist()) for each in found]


def answered(batch: PackedBatch, best: npt.NDArray[np.bool_]) -> list[bool]:
    """For each row whether every token of its last answer is the one that is foretold.

    A model that writes the likeliest token each time writes the expected answer if and only if
    it foretells each token of it after those before: nothing has to be generated.

    Args:
        batch: The rows.
        best: [S]; where the supervised token is the likeliest.
    """
    found = []
    for end in batch.cu_seqlens[1:]:
        stop = int(np.searchsorted(batch.places, end))
        start = stop
        # the last span of the row: places that follow each other
        while start and (start == stop or batch.places[start - 1] + 1 == batch.places[start]):
            start -= 1
        found.append(bool(best[start:stop].all()))
    return found


def without_end(tokens: Sequence[int], tokenizer: TrainingTokenizer) -> list[int]:
    """Tokens of an answer without those that end it."""
    kept = list(tokens)
    while kept and kept[-1] in tokenizer.end_tokens:
        kept.pop()
    return kept
