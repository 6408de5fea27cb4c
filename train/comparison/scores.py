"""How likely a model holds what the rows say: a number for each row, comparable between models."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from train.data.plan import in_order, pack
from train.data.tokenized import TokenizedData
from train.loop.compute import Computer
from train.preference.batch import pack_pairs
from train.preference.reference import answer_logprobs


def row_scores(
    computer: Computer, data: TokenizedData, rows: int, most_tokens: int
) -> npt.NDArray[np.float64]:
    """A score for each of the first rows, float64 [n].

    Of an answer to be imitated it is the log-probability of its tokens; of a preference the margin
    between the chosen and the rejected answer. A difference between two models is their margin.

    Args:
        computer: Of the model, in evaluation mode.
        data: Answers or preferences.
        rows: How many.
        most_tokens: Computed together.
    """
    found: list[npt.NDArray[np.float64]] = []
    for batch in in_order(data, most_tokens, rows):
        if data.are_pairs:
            pairs = pack_pairs(data, batch)
            with torch.no_grad():
                seen = answer_logprobs(computer, pairs)
            found.append((seen.chosen - seen.rejected).double().cpu().numpy())
        else:
            packed = pack(data, batch)
            row = np.searchsorted(packed.cu_seqlens, packed.places, side="right") - 1
            logprobs = computer.examine(packed).logprobs.astype(np.float64)
            sums: npt.NDArray[np.float64] = np.bincount(
                row, weights=logprobs, minlength=len(batch.rows)
            ).astype(np.float64)
            found.append(sums)
    return np.concatenate(found) if found else np.empty(0)
