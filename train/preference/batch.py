"""A micro-batch of preferences as the model reads it: each prompt once, both answers behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.data.plan import MicroBatch
from train.data.tokenized import TokenizedData
from train.model.branches import Branch


@dataclass(frozen=True, slots=True)
class PackedPairs:
    """P pairs, T tokens, of which S are supervised.

    Attributes:
        tokens: int32 [T]; prompt, chosen, rejected of each pair.
        positions: int32 [T]; those of a rejected answer go on from its prompt's.
        branches: What each answer attends to; two a pair.
        places: int64 [S]; the positions in T whose next token is supervised. The last position of
            a prompt foretells the first tokens of both answers.
        targets: int64 [S]; those next tokens.
        answers: int64 [S]; whose they are: 2 p of the chosen answer of pair p, 2 p + 1 of the
            rejected one.
        rows: The pairs' numbers in the data.
    """

    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    branches: tuple[Branch, ...]
    places: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]
    rows: tuple[int, ...]

    @property
    def pairs(self) -> int:
        """How many there are."""
        return len(self.rows)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Supervised tokens of each answer, int64 [2 P]."""
        return np.bincount(self.answers, minlength=2 * self.pairs)


def pack_pairs(data: TokenizedData, batch: MicroBatch) -> PackedPairs:
    """The arrays of a micro-batch.

    Args:
        data: Preferences.
        batch: Which of them.
    """
    tokens, positions, branches, places, answers = [], [], [], [], []
    at = 0
    for pair, number in enumerate(batch.rows):
        row = data.row(number)
        assert row.borders is not None
        first, second = row.borders
        end = len(row.tokens)
        tokens.append(row.tokens)
        positions += [np.arange(second), np.arange(first, first + end - second)]
        branches += [Branch(at, at, at, at + second), Branch(at, at + first, at + second, at + end)]
        supervised = np.flatnonzero(row.supervised)
        # the first token of the rejected answer follows the prompt, not the chosen answer
        before = np.where(supervised == second, first, supervised) - 1
        places.append(at + before)
        answers.append(2 * pair + (supervised >= second))
        at += end
    joined = np.concatenate(tokens).astype(np.int32, copy=False)
    chosen = np.concatenate([data.row(number).supervised for number in batch.rows])
    return PackedPairs(
        joined,
        np.concatenate(positions).astype(np.int32),
        tuple(branches),
        np.concatenate(places).astype(np.int64),
        joined[np.flatnonzero(chosen)].astype(np.int64),
        np.concatenate(answers).astype(np.int64),
        batch.rows,
    )
