"""What every engine asks of a batch before a device sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ironcliw.errors import ContextLengthError, RequestError
from serve.engines.protocol import PackedTokens


@dataclass(frozen=True, slots=True)
class InputLimits:
    """Of one model.

    Attributes:
        vocabulary: Token ids go from 0 to one less.
        window: The most tokens of a text.
    """

    vocabulary: int
    window: int

    def check(self, batch: PackedTokens) -> None:
        """Refuse a batch that would read outside the weights.

        Raises:
            RequestError: a token id is outside the vocabulary, or lengths and tokens disagree.
            ContextLengthError: a text is longer than the window.
        """
        tokens, lengths = batch.tokens, batch.lengths
        if len(lengths) == 0 or lengths.min() < 1 or int(lengths.sum()) != len(tokens):
            raise RequestError(
                f"{len(lengths)} lengths ({lengths!s:.60}) do not describe {len(tokens)} tokens: "
                "each must be positive and their sum the number of tokens"
            )
        if lengths.max() > self.window:
            text = int(lengths.argmax())
            raise ContextLengthError(
                f"text {text} has {lengths[text]} tokens, this model reads {self.window}; "
                "shorten it",
                param="input",
            )
        # seen as unsigned, a negative id is a huge one: one pass finds both
        if tokens.view(np.uint32).max() >= self.vocabulary:
            index = int(np.flatnonzero((tokens < 0) | (tokens >= self.vocabulary))[0])
            text = int(np.searchsorted(np.cumsum(lengths), index, side="right"))
            place = index - int(lengths[:text].sum())
            raise RequestError(
                f"token {place} of text {text} is {tokens[index]}; this model's ids go from 0 to "
                f"{self.vocabulary - 1}",
                param="input",
            )


def require_end(batch: PackedTokens, end: int) -> npt.NDArray[np.int64]:
    """How many end tokens each text has, int64 [B].

    Raises:
        RequestError: one has none.
    """
    starts = np.cumsum(batch.lengths) - batch.lengths
    ends: npt.NDArray[np.int64] = np.add.reduceat((batch.tokens == end).astype(np.int64), starts)
    if ends.min() < 1:
        raise RequestError(
            f"text {int(ends.argmin())} has no end token ({end}), which this model "
            "reads its answer from; encode it with the model's tokenizer",
            param="input",
        )
    return ends
